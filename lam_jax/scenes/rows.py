"""Rows of the data set "scenes": each is a pure function of (split, index), in the record layouts of the real tasks.

    paired(index)            captions, questions and answers about a picture
    text_only(index)         dialogues about scenes that are described and never shown; no image
    role_play(split, index)  task A: a character chats about a picture over one to three turns
    help_row(split, index)   task B: advice that fits the user's role at the place in the picture

Pictures are PNG bytes where the real data have paths. Every row has "facts", which the rubric scores against
(role_play: a list with one entry for each assistant turn; elsewhere one dict). Facts are plain JSON-able data:

    task        "caption" | "qa" | "dialogue" | "role_play" | "help"
    objects     [{"name", "category", "x", "y", "size"}]: the picture from left to right; centre and size in pixels
    background  name of the place
    question    {"kind": "describe" | "name" | "count" | "category" | "left_of" | "right_of" | "middle_of" | "place" |
                 "favorite" | "feel" | "advice",
                 "answer": [words of which an answer must hold one; empty: none asked for],
                 "objects": [names that the answer must hold; other objects of the picture may be named too],
                 "first": whether the turn opens its conversation (role play and help)}
    character   None, or {"name", "voice", "mood", "passion", "catchphrase", "style_words": {"voice": [...],
                "mood": [...], "passion": [...]}}: the words of the character's registers (`words.py`)
    role        None, or {"role", "location", "role_set": {location: role}, "feeling", "job_words", "mind_words",
                "body_words"}: the role at the picture's place and the good words for it and for the user's feeling

The references of role_play("sft", i) and help_row("sft", i) are noisy on purpose: style words come from nobody or
from another character (role, feeling) at rate STYLE_NOISE (help: HELP_STYLE_NOISE), the catchphrase is forgotten at
half that rate, and objects are mistaken at rate OBJECT_NOISE. The role play and help talk of text_only has style noise
(TEXT_STYLE_NOISE) alone. So SFT learns the language but not the whole task, and RL has something to improve. References
of all other splits are clean: full marks by the rubric.
"""

import random
from typing import Any

from lam_jax.scenes.advice import advise
from lam_jax.scenes.captions import caption_turn, question_turn
from lam_jax.scenes.characters import held_out_characters, random_character, training_characters
from lam_jax.scenes.compose import Scene, draw_scene, encode_png
from lam_jax.scenes.grammar import copied_share, ngrams, tokens
from lam_jax.scenes.language import Rng, listing, placed_listing
from lam_jax.scenes.speech import question_kinds, reply
from lam_jax.tasks import mmrole, pcogalign

ROLE_PLAY_SPLITS = ("sft", "rl", "val", "id_test", "ood_test")
HELP_SPLITS = ("sft", "rl", "val", "ls1", "ls2")
STYLE_NOISE = 0.5
HELP_STYLE_NOISE = 0.1  # at a rate of .5 nothing of roles and feelings is learned: a plain word is then the likeliest
TEXT_STYLE_NOISE = 0.4
OBJECT_NOISE = 0.08
CAPTION_SHARE = 0.65
# A conversation goes on only while its next prompt stays below this many words and marks; the prompt then fits 160
# tokens with its picture (a test checks every split with the tokenizer).
PROMPT_WORDS = 106

DESCRIPTIONS = (
    "I have a picture of {} {}.",
    "My picture shows {} {}.",
    "Here are {} {}.",
    "Imagine {} {}.",
    "I took a photo of {} {}.",
    "Think of {} {}.",
    "In my drawing there is {} {}.",
    "Suppose there is {} {}.",
)

Row = dict[str, Any]


def _rng(split: str, index: int, splits: tuple[str, ...]) -> Rng:
    """The generator of a row.

    Raises:
      ValueError: unknown split or negative index.
    """
    if split not in splits:
        raise ValueError(f"scenes: unknown split {split!r}; expected one of {splits}. Correct the split's name.")
    if index < 0:
        raise ValueError(f"scenes: found index {index} of split {split!r}; expected 0 or more. Correct the index.")
    return random.Random(f"scenes/{split}/{index}")


def _facts(task: str, scene: Scene, question: dict[str, Any]) -> dict[str, Any]:
    objects, background = scene.fact_objects(), scene.background
    shown = {"task": task, "objects": objects, "background": background}
    return {**shown, "question": question, "character": None, "role": None}


def _chat(*turns: tuple[str, str]) -> list[dict[str, str]]:
    return [
        {"role": role, "content": content}
        for turn in turns
        for role, content in zip(("user", "assistant"), turn, strict=True)
    ]


def paired(index: int, split: str = "paired") -> Row:
    """A pre-training row with a picture; `split` "paired" trains, "paired_test" is held out.

    Two thirds are captions, which name every object; facts are those of the last turn.
    """
    rng = _rng(split, index, ("paired", "paired_test"))
    scene = draw_scene(rng)
    if rng.random() < CAPTION_SHARE:
        task, (question, answer, asked) = "caption", caption_turn(scene, rng)
        turns = [(question, answer)]
    else:
        task, (question, answer, asked) = "qa", question_turn(scene, rng)
        turns = [(question, answer)]
        if rng.random() < 0.5:
            question, answer, asked = question_turn(scene, rng)
            turns.append((question, answer))
    return {
        "id": f"{split}-{index}",
        "images": [encode_png(scene)],
        "messages": _chat(*turns),
        "instance_type": task,
        "facts": _facts(task, scene, asked),
    }


def caption_test(index: int) -> Row:
    """A held-out picture with the plain caption prompt; the answer names every object and nothing else."""
    rng = _rng("caption_test", index, ("caption_test",))
    scene = draw_scene(rng)
    question, answer, asked = caption_turn(scene, rng, share_long=0.0)
    return {
        "id": f"caption_test-{index}",
        "images": [encode_png(scene)],
        "messages": _chat((question, answer)),
        "instance_type": "caption",
        "facts": _facts("caption", scene, asked),
    }


def _described(scene: Scene, rng: Rng, positions: bool) -> str:
    """The user's sentence that tells a scene: its objects, where they are if `positions`, and the place."""
    start = rng.choice(DESCRIPTIONS)
    if scene.uniform:
        start = start.replace("there is", "there are")
    elif "are" in start:
        start = "Here is {} {}."
    return start.format(placed_listing(scene, rng) if positions else listing(scene), scene.place)


def text_only(index: int, split: str = "text_only") -> Row:
    """A pre-training row without picture; `split` "text_only" trains, "text_only_test" is held out."""
    rng = _rng(split, index, ("text_only", "text_only_test"))
    kind = rng.choices(("dialogue", "role_play", "help"), (35, 40, 25))[0]
    scene = draw_scene(rng, most=3 if kind == "dialogue" else 2)
    told = _described(scene, rng, positions=kind == "dialogue")
    if kind == "dialogue":
        turns, asked = [], {}
        for number in range(1 if len(scene.objects) == 3 else 2):
            question, answer, asked = caption_turn(scene, rng) if rng.random() < 0.3 else question_turn(scene, rng)
            turns.append((f"{told} {question}" if number == 0 else question, answer))
        messages, facts = _chat(*turns), _facts("dialogue", scene, asked)
    elif kind == "role_play":
        character = random_character(rng) if rng.random() < 0.5 else rng.choice(training_characters())
        first = rng.random() < 0.7
        asked = rng.choice([kind for kind in question_kinds(scene) if kind not in ("left_of", "right_of")])
        said = reply("describe" if first else asked, scene, character, rng, first, TEXT_STYLE_NOISE, brief=True)
        # Introduction and personality both tell voice and mood: with one of them the row stays short.
        fields = (rng.choice(("introduction", "personality")), "experience", "catchphrase")
        profile = {key: character.profile[key] for key in fields}
        prompt = mmrole.user_prompt(character.name, profile, [], f"{told} {said.question}")
        messages = [mmrole.system_message(character.name), *_chat((prompt, said.answer))]
        facts = said.facts
    else:
        advice = advise(scene, rng, style_noise=TEXT_STYLE_NOISE, places=1 + (rng.random() < 0.5))
        messages = [pcogalign.system_message(advice.role_set), *_chat((f"{told} {advice.query}", advice.answer))]
        facts = advice.facts
    return {"id": f"{split}-{index}", "messages": messages, "instance_type": kind, "facts": facts}


def _words(*texts: str) -> int:
    return sum(len(tokens(text)) + text.count("[") + text.count("]") for text in texts)


def role_play(split: str, index: int) -> Row:
    """A conversation of task A in MMRole's processed layout, of one to three turns; three only about a single object.

    Splits: sft (noisy references), rl, val, id_test (unseen scenes), ood_test (held-out characters).
    """
    rng = _rng(f"role_play_{split}", index, tuple(f"role_play_{name}" for name in ROLE_PLAY_SPLITS))
    turns = rng.choices((1, 2, 3), (40, 30, 30))[0]
    brief = turns == 3
    scene = draw_scene(rng, most=1 if brief else 3)
    character = rng.choice(held_out_characters() if split == "ood_test" else training_characters())
    noise = (STYLE_NOISE, OBJECT_NOISE) if split == "sft" else (0.0, 0.0)
    kinds = ["describe", *rng.sample(question_kinds(scene, brief), 2)]
    if rng.random() < 0.25:
        kinds[0] = kinds.pop()
    conversation, facts, history = [], [], []
    for number, kind in enumerate(kinds[:turns]):
        said = reply(kind, scene, character, rng, number == 0, *noise, brief)
        if brief:
            # The shortest of a few that does not say again what was said: three turns must fit one prompt.
            spoken = ngrams(tokens(" ".join(text for _, text in history)))
            tries = [said, *(reply(kind, scene, character, rng, number == 0, *noise, brief) for _ in range(7))]
            fresh = [one for one in tries if copied_share(tokens(one.answer), spoken) < 0.5]
            said = min(fresh or tries, key=lambda one: _words(one.question, one.answer))
        prompt = mmrole.user_prompt(character.name, character.profile, history, said.question)
        if number and _words(prompt) > PROMPT_WORDS:
            break
        conversation += _chat((said.question, said.answer))
        facts.append(said.facts)
        history += [("human", said.question), (character.name, said.answer)]
    return {
        "id": f"role_play_{split}-{index}",
        "image_path": encode_png(scene),
        "conversations": conversation,
        "original_roles": ["human", character.name] * len(facts),
        "character_role": character.name,
        "character_profile": {character.name: character.profile},
        "facts": facts,
    }


def help_row(split: str, index: int) -> Row:
    """A row of task B in PCogAlignBench's layout.

    Splits: sft (noisy references), rl, val, ls1 (known pairs of place and role), ls2 (new ones).
    """
    rng = _rng(f"help_{split}", index, tuple(f"help_{name}" for name in HELP_SPLITS))
    scene = draw_scene(rng)
    noise = (HELP_STYLE_NOISE, OBJECT_NOISE) if split == "sft" else (0.0, 0.0)
    advice = advise(scene, rng, split == "ls2", *noise)
    role = advice.facts["role"]
    expected = (
        f"Names the feeling ({role['feeling']}), what is seen, the role ({role['role']}), its {role['job_words'][0]}, "
        "and something that the body can do."
    )
    return {
        "id": f"help_{split}-{index}",
        "individual_RoleSet": advice.role_set,
        "query": advice.query,
        "golden_response": advice.answer,
        "image": {"file_path": encode_png(scene)},
        "eval_info": {
            "ImageDesc": f"{placed_listing(scene, rng)} {scene.place}",
            "location": scene.background,
            "EvalHelp": expected,
        },
        "facts": advice.facts,
    }
