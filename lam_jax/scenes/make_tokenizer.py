"""Makes the shipped tokenizer: `assets/base_model/tokenizer.json` and `tokenizer_config.json` (about 20 seconds).

    python -m lam_jax.scenes.make_tokenizer

It is trained on the text of training rows and on names and catchphrases. With other tokens the base model beside it has
to be trained again: `python -m experiments.base_model`.
"""

import argparse
import json
from pathlib import Path

from lam_jax.data.schemas import Where
from lam_jax.scenes import rows, words
from lam_jax.scenes.tokenizer import CHAT_TEMPLATE, FOLDER, train, wrap
from lam_jax.tasks.mmrole import mmrole_examples
from lam_jax.tasks.pcogalign import pcogalign_examples


def corpus(size: int) -> list[str]:
    """Messages of `size` rows of each training split."""
    where = Where("scenes")
    texts = []
    for i in range(size):
        chats = [rows.text_only(i)["messages"], rows.paired(i)["messages"]]
        chats += [example.messages for example in mmrole_examples(rows.role_play("sft", i), where)]
        chats += [example.messages for example in pcogalign_examples(rows.help_row("sft", i), where)]
        texts += [f"{message['role']}\n{message['content']}" for chat in chats for message in chat]
    return texts


def prompt_words(times: int) -> list[str]:
    """Names and words of catchphrases as they stand in prompts, so that each is one token and prompts stay short."""
    cast = words.TRAIN_NAMES + words.HELD_OUT_NAMES + words.OTHER_NAMES
    verbs = [form for verb in words.CATCH_VERBS for form in (verb, verb.lower())]
    return [f" {word}" for word in cast + verbs + words.CATCH_NOUNS] * times + [f"[{name}" for name in cast] * times


def main() -> None:
    """Command line: trains the tokenizer and writes it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=8000, help="rows of each split to train on")
    parser.add_argument("--out", type=Path, default=FOLDER)
    args = parser.parse_args()
    wrap(train(corpus(args.rows) + prompt_words(args.rows // 30))).save_pretrained(args.out)
    # transformers puts the template into a file of its own; a config that holds it is what older readers expect.
    path = args.out / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "chat_template": CHAT_TEMPLATE}, indent=2) + "\n")
    (args.out / "chat_template.jinja").unlink(missing_ok=True)


if __name__ == "__main__":
    main()
