"""What characters say about a scene: questions of the user and answers in character.

An answer has the sentence that answers the question, a sentence of feeling and the catchphrase; the first one of a
conversation greets as well. Every open place takes six or more good words, so a prompt has very many good answers.
"""

from dataclasses import dataclass
from typing import Any

from lam_jax.scenes.characters import Character, Speaker
from lam_jax.scenes.compose import Scene
from lam_jax.scenes.language import (
    NUMBERS,
    POSITIONS,
    Rng,
    capitalize,
    groups,
    join,
    misread,
    noun_phrase,
    position,
    with_article,
)

QUESTIONS = {
    "describe": (
        "What do you see in this picture?",
        "What can you tell me about this picture?",
        "Please describe this for me.",
        "What is going on here?",
        "Look at this! What is it?",
        "What is in front of you?",
        "Tell me what you notice here.",
        "What does this image show you?",
        "What do you see?",
        "What is this?",
    ),
    "left_of": ("What is on the left?", "Tell me what is at the left.", "And on the left side?"),
    "right_of": ("What is on the right?", "Tell me what is at the right.", "And on the right side?"),
    "count": ("How many things are there?", "Can you count the things?", "How many do you see?", "How many things?"),
    "favorite": (
        "Which one do you like best?",
        "What is your favorite?",
        "Which thing would you keep?",
        "Your favorite?",
    ),
    "category": ("Do you see {}?", "Is there {} in it?", "Can you find {} here?", "Is there {}?"),
    "place": ("Where is this?", "What place is this?", "Where are we?"),
    "feel": ("How does it make you feel?", "What do you think of it?", "Does it touch you?", "How do you feel?"),
}
HEARTS = ("heart", "soul", "mind", "spirit", "evening", "morning")
SIGHTS = ("sight", "view", "picture", "scene", "moment", "image")
CATCHPHRASE_DROP = 0.5  # share of the style noise rate at which a noisy speaker forgets the catchphrase


@dataclass(frozen=True)
class Reply:
    """A question, its answer in character, and the facts of that turn."""

    question: str
    answer: str
    facts: dict[str, Any]


def question_kinds(scene: Scene, brief: bool = False) -> list[str]:
    """Kinds of follow-up questions that make sense for the scene; `brief`: that have short answers."""
    if brief:
        return ["category", "place", "feel"]
    kinds = ["count", "favorite", "category", "place", "feel"]
    return kinds if scene.uniform or len(scene.objects) == 1 else [*kinds, "left_of", "right_of"]


def _things(scene: Scene, speaker: Speaker, rng: Rng, positions: bool = False) -> list[str]:
    """Noun phrases from left to right, each with an adjective of the speaker."""
    phrases = [noun_phrase(concept, number, speaker.mood("adjective")) for concept, number in groups(scene)]
    if positions and not scene.uniform:
        return [f"{phrase} {rng.choice(POSITIONS[position(scene, i)])}" for i, phrase in enumerate(phrases)]
    return phrases


def feeling(speaker: Speaker, rng: Rng, brief: bool = False) -> str:
    """ "It warms my heart like soup."."""
    verb, heart, like = speaker.mood("verb"), rng.choice(HEARTS), speaker.passion()
    sight = rng.choice(SIGHTS)
    start = rng.choice(("It", "This", "All of it", f"The {sight}", f"This {sight}", f"Such {with_article(sight)}"))
    start = "It" if brief else start
    return f"{start} {verb} my {heart} like {like}."


def _core(
    kind: str, scene: Scene, seen: Scene, speaker: Speaker, rng: Rng, brief: bool
) -> tuple[str, str, list[str], list[str]]:
    """(question, answering sentence without its end, acceptable answers, objects to name) for the scene.

    `seen` is the scene as the speaker reads it; what counts as right is taken from `scene`.
    """
    see, names = speaker.voice("see"), sorted(set(scene.names))
    question = rng.choice([text for text in QUESTIONS[kind] if not brief or len(text.split()) <= 5])
    if kind == "describe":
        things = join(_things(seen, speaker, rng, positions=not brief and rng.random() < 0.4))
        place = f" {seen.place}" if not brief and rng.random() < 0.4 else ""
        return question, f"I {see} {things}{place}", [], names
    if kind in ("left_of", "right_of"):
        index = 0 if kind == "left_of" else len(scene.objects) - 1
        thing = noun_phrase(seen.objects[index].concept, 1, speaker.mood("adjective"))
        where = rng.choice(POSITIONS["left" if index == 0 else "right"])
        sentence = rng.choice((f"I {see} {thing} {where}", f"{capitalize(where)} I {see} {thing}"))
        return question, sentence, [scene.names[index]], [scene.names[index]]
    if kind == "count":
        number = NUMBERS[len(seen.objects)]
        things = join(_things(seen, speaker, rng))
        noun = "thing" if number == "one" else "things"
        sentence = f"I {see} {things}" if seen.uniform else f"I {see} {number} {noun}, {things}"
        return question, sentence, [number], names
    if kind == "favorite":
        phrase = rng.choice(_things(seen, speaker, rng))
        few = "They are" if seen.uniform else "It is"
        return question, f"I {see} {phrase}. {few} my favorite", names, []
    if kind == "category":
        from_scene = {placed.concept.category for placed in scene.objects}
        there = rng.random() < 0.6
        category = rng.choice(sorted(from_scene if there else ASKED - from_scene))
        found = [i for i, placed in enumerate(scene.objects) if placed.concept.category == category]
        things = _things(seen, speaker, rng)
        question = question.format(_ARTICLES[category])
        if found:
            chosen = join(things if seen.uniform else [things[i] for i in found])
            return question, f"Yes, I {see} {chosen}", ["yes"], sorted({scene.names[i] for i in found})
        return question, f"No, I only {see} {join(things)}", ["no"], names
    things = join(_things(seen, speaker, rng))
    if kind == "place":
        sentence = rng.choice((f"We are {seen.place} and I {see} {things}", f"I {see} {things} {seen.place}"))
        return question, sentence, [scene.background], names
    return question, f"I {see} {things}", list(speaker.character.style_words["mood"][8:]), names


ASKED = {"animal", "fruit", "food", "vehicle", "tool", "garment", "plant", "instrument", "toy", "building"}
_ARTICLES = {name: "food" if name == "food" else with_article(name) for name in ASKED}


def reply(
    kind: str,
    scene: Scene,
    character: Character,
    rng: Rng,
    first: bool,
    style_noise: float = 0.0,
    object_noise: float = 0.0,
    brief: bool = False,
) -> Reply:
    """A question of `kind` about the scene and the character's answer.

    Args:
      first: whether this opens the conversation; only then the character greets.
      style_noise: rate at which style words come from nobody or from somebody else, see `Speaker`; at half that rate
        the catchphrase is forgotten.
      object_noise: rate at which the character takes a thing for another.
      brief: a short question, no positions, no place unless asked for, and a short sentence of feeling.
    """
    speaker = Speaker(character, rng, style_noise)
    seen = misread(scene, rng, object_noise) if object_noise else scene
    question, core, answers, names = _core(kind, scene, seen, speaker, rng, brief)
    if first:
        core = f"{speaker.greeting()} {capitalize(core)}."
    elif rng.random() < 0.5:
        core = f"{core}, {speaker.voice('address')}."
    else:
        address = capitalize(speaker.voice("address"))
        core = f"{address}, {core if core.startswith('I ') else core[:1].lower() + core[1:]}."
    parts = [core, feeling(speaker, rng, brief)]
    if rng.random() >= style_noise * CATCHPHRASE_DROP:
        parts.append(character.catchphrase)
    facts = {
        "task": "role_play",
        "objects": scene.fact_objects(),
        "background": scene.background,
        "question": {"kind": kind, "answer": answers, "objects": names, "first": first},
        "character": character.facts(),
        "role": None,
    }
    return Reply(question, " ".join(parts), facts)
