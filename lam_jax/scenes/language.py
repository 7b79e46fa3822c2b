"""Pieces of English that all rows share: articles, lists, numbers, noun phrases, positions, misread scenes."""

import dataclasses
import random
from collections.abc import Sequence

from lam_jax.scenes.compose import WIDTH, Concept, Scene, concepts

NUMBERS = ("no", "one", "two", "three")

POSITIONS: dict[str, tuple[str, ...]] = {
    "left": ("on the left", "on the left side", "at the left"),
    "middle": ("in the middle", "in the center", "at the center"),
    "right": ("on the right", "on the right side", "at the right"),
}

Rng = random.Random


def with_article(phrase: str) -> str:
    """The phrase behind "a" or "an"."""
    vowel = phrase[0] in "aeiou" and not phrase.startswith("use")
    return f"{'an' if vowel else 'a'} {phrase}"


def capitalize(sentence: str) -> str:
    """The sentence with a capital first letter, the rest untouched."""
    return sentence[:1].upper() + sentence[1:]


def join(phrases: Sequence[str]) -> str:
    """ "a, b and c"."""
    return phrases[0] if len(phrases) == 1 else f"{', '.join(phrases[:-1])} and {phrases[-1]}"


def noun_phrase(concept: Concept, number: int = 1, adjective: str = "") -> str:
    """ "an odd lion", "two odd lions"."""
    words = f"{adjective} {concept.name if number == 1 else concept.plural}".strip()
    return with_article(words) if number == 1 else f"{NUMBERS[number]} {words}"


def groups(scene: Scene) -> list[tuple[Concept, int]]:
    """Concepts from left to right with how often each is there."""
    if scene.uniform:
        return [(scene.objects[0].concept, len(scene.objects))]
    return [(placed.concept, 1) for placed in scene.objects]


def position(scene: Scene, index: int) -> str:
    """Where object `index` is: left, middle or right; among others by its order, alone by its x."""
    number = len(scene.objects)
    if number == 1:
        share = scene.objects[0].x / WIDTH
        return "left" if share < 0.38 else "right" if share > 0.62 else "middle"
    return ("left", "right")[index] if number == 2 else ("left", "middle", "right")[index]


def listing(scene: Scene) -> str:
    """All objects: "a lion, a boat and a pear"; a row of equals is "three lions"."""
    return join([noun_phrase(concept, number) for concept, number in groups(scene)])


def placed_listing(scene: Scene, rng: Rng) -> str:
    """All objects with their positions: "a lion on the left and a boat on the right"."""
    if scene.uniform:
        return listing(scene)
    return join(
        [f"{noun_phrase(o.concept)} {rng.choice(POSITIONS[position(scene, i)])}" for i, o in enumerate(scene.objects)]
    )


def misread(scene: Scene, rng: Rng, rate: float) -> Scene:
    """The scene with each concept replaced, at that rate, by one that is not in it."""
    wrong: dict[str, Concept] = {}
    for name in dict.fromkeys(scene.names):
        if rng.random() < rate:
            taken = {*scene.names, *(concept.name for concept in wrong.values())}
            wrong[name] = rng.choice([concept for concept in concepts() if concept.name not in taken])
    objects = tuple(dataclasses.replace(o, concept=wrong.get(o.name, o.concept)) for o in scene.objects)
    return dataclasses.replace(scene, objects=objects)
