"""Personalised help: a user with a role at each of several places asks for advice before a picture.

The place is not told: the picture's background shows it, and with it which of the user's roles counts. A good answer
names the feeling (mind), something the body can do, what is in the picture, the place, the role and the things of its
job.

Pairs (place, role) are parted by a hash: LS2's role sets hold only pairs that occur nowhere else.
"""

import zlib
from dataclasses import dataclass
from typing import Any

from lam_jax.scenes import words
from lam_jax.scenes.compose import BACKGROUNDS, Scene
from lam_jax.scenes.language import Rng, listing, misread, with_article

QUERIES = (
    "I feel {}. What should I do now?",
    "I am {} today. Any advice?",
    "Being here makes me {}. What now?",
    "I am so {}. Can you help me?",
    "Right now I feel {}. What do you suggest?",
    "Look, I am {}. What would you do?",
    "Everything here makes me {}. Please help.",
    "Why am I {} here? What can I do?",
)
UNDERSTAND = (
    "It is natural to feel {}.",
    "I understand that you feel {}.",
    "No wonder you are {}.",
    "It is okay to be {}.",
    "Many people would feel {} too.",
    "Being {} is nothing bad.",
    "I hear that you are {}.",
    "Thank you for saying you are {}.",
)
NOTICE = (
    "{place} I see {things} with you.",
    "Around you {place} I see {things}.",
    "Look at {things} {place}.",
    "You are {place} with {things}.",
    "Near you there is {things} {place}.",
    "{place} you have {things}.",
)
JOB = (
    "As {role}, let your {job} wait",
    "As {role}, forget your {job} for now",
    "As {role}, put your {job} aside",
    "As {role}, you can leave the {job}",
    "As {role}, think of your {job} later",
    "As {role}, start with your {job}",
)
BODY = ("and {}.", "and just {}.", "then {}.", "and simply {}.", "and first {}.", "then gently {}.")
CLOSING = (
    "You can do it!",
    "I am here to help.",
    "Tell me how it goes.",
    "Ask me again anytime.",
    "That should help you.",
    "Take your time.",
    "You are not alone.",
    "Good luck today!",
)


@dataclass(frozen=True)
class Advice:
    """The user's role set and query, the answer and the facts."""

    role_set: dict[str, str]
    query: str
    answer: str
    facts: dict[str, Any]


def is_held_out(place: str, role: str) -> bool:
    """Whether the pair is kept for LS2 (about one in five)."""
    return zlib.crc32(f"{place}/{role}".encode()) % 5 == 0


def role_set(place: str, rng: Rng, held_out: bool, size: int) -> dict[str, str]:
    """{location: role} with `place` among the locations, all pairs known or all held out, in random order."""
    places = [place, *rng.sample([other for other in BACKGROUNDS if other != place], size - 1)]
    rng.shuffle(places)
    chosen: dict[str, str] = {}
    for where in places:
        free = [role for role in words.JOBS if is_held_out(where, role) == held_out and role not in chosen.values()]
        if free:
            chosen[where] = rng.choice(free)
    return chosen


def _pick(slot: str, own: tuple[str, ...], others: list[tuple[str, ...]], rng: Rng, noise: float) -> str:
    """A word of `own`, or at rate `noise` a plain one (two thirds) or one of the others' (a third)."""
    if rng.random() < noise:
        return rng.choice(words.PLAIN[slot] if rng.random() < 2 / 3 else rng.choice(others))
    return rng.choice(own)


def advise(
    scene: Scene, rng: Rng, held_out: bool = False, style_noise: float = 0.0, object_noise: float = 0.0, places: int = 0
) -> Advice:
    """A role set, a query and an answer for the scene.

    Args:
      held_out: whether the role set holds only (place, role) pairs that are kept for LS2.
      style_noise: rate at which role, mind and body words come from nobody or from another role or feeling.
      object_noise: rate at which an object is taken for another.
      places: size of the role set; 0 draws two or three.
    """
    roles = role_set(scene.background, rng, held_out, places or rng.choice((2, 3)))
    role, feeling = roles[scene.background], rng.choice(tuple(words.FEELINGS))
    known = words.FEELINGS[feeling]
    seen = misread(scene, rng, object_noise) if object_noise else scene
    other_feelings = [entry for name, entry in words.FEELINGS.items() if name != feeling]
    job = _pick("job", words.JOBS[role], [w for name, w in words.JOBS.items() if name != role], rng, style_noise)
    mind = _pick("mind", known["mind"], [entry["mind"] for entry in other_feelings], rng, style_noise)
    body = _pick("body", known["body"], [entry["body"] for entry in other_feelings], rng, style_noise)
    said = role
    if style_noise and rng.random() < style_noise / 2:
        said = rng.choice([name for name in words.JOBS if name != role])
    notice = rng.choice(NOTICE)
    if scene.uniform:
        notice = notice.replace("there is", "there are")
    place = seen.place[0].upper() + seen.place[1:] if notice.startswith("{place}") else seen.place
    sentences = [
        rng.choice(UNDERSTAND).format(mind),
        notice.format(place=place, things=listing(seen)),
        f"{rng.choice(JOB).format(role=with_article(said), job=job)} {rng.choice(BODY).format(body)}",
        rng.choice(CLOSING),
    ]
    facts = {
        "task": "help",
        "objects": scene.fact_objects(),
        "background": scene.background,
        "question": {"kind": "advice", "answer": [], "objects": sorted(set(scene.names)), "first": True},
        "character": None,
        "role": {
            "role": role,
            "location": scene.background,
            "role_set": roles,
            "feeling": feeling,
            "job_words": list(words.JOBS[role]),
            "mind_words": list(known["mind"]),
            "body_words": list(known["body"]),
        },
    }
    return Advice(roles, rng.choice(QUERIES).format(feeling), " ".join(sentences), facts)
