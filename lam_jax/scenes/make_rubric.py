"""Makes the rubric's tables: `lam_jax/rewards/assets/scenes.json` (about a minute).

    python -m lam_jax.scenes.make_rubric

The rubric may not import the data, so what it must know of the language is written down here once: word classes from
`words`, and the class trigrams of many answers of each task.
"""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

from lam_jax.scenes import rows, words
from lam_jax.scenes.compose import BACKGROUNDS, concepts
from lam_jax.scenes.grammar import ASSET, Grammar, tokens


def lower(groups: list[tuple[str, ...]]) -> list[str]:
    """All words of the groups in lower case, sorted."""
    return sorted({word.lower() for group in groups for word in group})


def word_classes() -> dict[str, list[str]]:
    """Class -> words of all registers and the plain ones."""
    classes = {
        slot: lower([*(register[slot] for register in registers.values()), words.PLAIN[slot]])
        for registers, slots in ((words.VOICES, ("opening", "address", "see")), (words.MOODS, ("adjective", "verb")))
        for slot in slots
    }
    classes["passion"] = lower([*words.PASSIONS.values(), words.PLAIN["passion"]])
    classes["job"] = lower([*words.JOBS.values(), words.PLAIN["job"]])
    # Plain words of feeling stay out: "Being tired is nothing bad." is a good sentence.
    classes["mind"] = lower([feeling["mind"] for feeling in words.FEELINGS.values()])
    classes["role"] = sorted(words.JOBS)
    classes["catch_verb"] = lower([tuple(words.CATCH_VERBS)])
    classes["catch_noun"] = lower([tuple(words.CATCH_NOUNS)])
    return classes


def answers(task: str, count: int) -> Iterator[str]:
    """Answers of `count` rows of each clean split and of the noisy one."""
    splits = ("sft", "rl", "ood_test") if task == "role_play" else ("sft", "rl", "ls2")
    for split in splits:
        for i in range(count):
            if task == "role_play":
                yield from (turn["content"] for turn in rows.role_play(split, i)["conversations"][1::2])
            else:
                yield rows.help_row(split, i)["golden_response"]


def tables(count: int) -> dict:
    """The content of the asset."""
    names = {form: concept.name for concept in concepts() for form in (concept.name, concept.plural)}
    phrases = {phrase for feeling in words.FEELINGS.values() for phrase in feeling["body"]} | set(words.PLAIN["body"])
    data = {
        "classes": word_classes(),
        "objects": names,
        "phrases": sorted(phrases),
        "places": sorted(BACKGROUNDS),
        "numbers": ["one", "three", "two"],
    }
    sets = {key: frozenset(data[key]) for key in ("places", "numbers")}
    classes = {name: frozenset(members) for name, members in data["classes"].items()}
    grammar = Grammar(classes, names, tuple(data["phrases"]), sets["places"], sets["numbers"], {})
    data["trigrams"] = {
        task: sorted({trigram for answer in answers(task, count) for trigram in grammar.class_trigrams(tokens(answer))})
        for task in ("role_play", "help")
    }
    return data


def main() -> None:
    """Command line: writes the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=8000, help="rows of each split to collect trigrams from")
    parser.add_argument("--out", type=Path, default=ASSET)
    args = parser.parse_args()
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(tables(args.rows), indent=0) + "\n")


if __name__ == "__main__":
    main()
