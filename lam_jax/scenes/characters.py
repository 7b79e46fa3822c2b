"""Characters of the role play: who they are, how they speak, and their profiles.

A character is a voice, a mood, a passion (registers of `words`) and a catchphrase, all stated in the profile. Twenty
characters train; six are held out for the OOD test, each with a pairing of voice and mood and a catchphrase that no
other row has. The text-only data add random characters (never with a held-out pairing), so that reading a profile is
learned and not only twenty people.
"""

import functools
import random
from dataclasses import dataclass
from typing import Any

from lam_jax.scenes import words
from lam_jax.scenes.language import Rng, capitalize, with_article

# voice, mood, passion of each name, in the order of words.TRAIN_NAMES and words.HELD_OUT_NAMES.
TRAINING = (
    "pirate cheerful cooking, knight gloomy gold, cowboy fierce music, scholar dreamy gardening, robot grumpy stars, "
    "granny proud books, wizard curious sailing, chef calm battle, surfer cheerful stars, detective gloomy cooking, "
    "pirate proud music, knight curious gardening, cowboy calm books, scholar cheerful battle, robot gloomy sailing, "
    "granny fierce gold, wizard dreamy cooking, chef grumpy music, surfer proud gardening, detective fierce books"
)
HELD_OUT = (
    "pirate dreamy stars, knight grumpy sailing, cowboy curious gold, granny calm music, robot cheerful books, "
    "wizard fierce gardening"
)


@dataclass(frozen=True)
class Character:
    """Name, register names and catchphrase of a character."""

    name: str
    voice: str
    mood: str
    passion: str
    catchphrase: str

    @functools.cached_property
    def style_words(self) -> dict[str, list[str]]:
        """Good words by aspect of style: voice, mood and passion."""
        return {
            "voice": [word for slot in words.VOICES[self.voice].values() for word in slot],
            "mood": [word for slot in words.MOODS[self.mood].values() for word in slot],
            "passion": list(words.PASSIONS[self.passion]),
        }

    @functools.cached_property
    def profile(self) -> dict[str, str]:
        """The five profile fields of MMRole, always the same for the same character."""
        rng = random.Random(f"profile/{self.name}/{self.voice}/{self.mood}/{self.passion}/{self.catchphrase}")
        voice, mood = with_article(self.voice), with_article(self.mood)
        address = rng.choice(words.VOICES[self.voice]["address"])
        return {
            "introduction": rng.choice(
                (f"{mood} {self.voice}", f"{mood} old {self.voice}", f"{mood} young {self.voice}")
            ),
            "personality": rng.choice((f"{self.mood}, talks like {voice}", f"{self.mood}, speaks as {voice}")),
            "experience": rng.choice(("years of {}", "a life of {}", "knows {}", "loves {}")).format(self.passion),
            "relationship": rng.choice(("calls you {}", "treats you as a {}", "says {} to you")).format(address),
            "catchphrase": self.catchphrase,
        }

    def facts(self) -> dict[str, Any]:
        """The `character` entry of a row's facts."""
        return {
            "name": self.name,
            "voice": self.voice,
            "mood": self.mood,
            "passion": self.passion,
            "catchphrase": self.catchphrase,
            "style_words": self.style_words,
        }


def _catchphrase(frame: int, verb: int, noun: int) -> str:
    pick = words.CATCH_VERBS[verb]
    return words.CATCH_FRAMES[frame].format(verb=pick, low=pick.lower(), noun=words.CATCH_NOUNS[noun])


def _cast(names: list[str], table: str, offset: int) -> tuple[Character, ...]:
    cast = []
    for i, (name, traits) in enumerate(zip(names, table.split(", "), strict=True)):
        voice, mood, passion = traits.split()
        k = i + offset
        catchphrase = _catchphrase(k % 4, k * 5 % len(words.CATCH_VERBS), k * 7 % len(words.CATCH_NOUNS))
        cast.append(Character(name, voice, mood, passion, catchphrase))
    return tuple(cast)


@functools.cache
def training_characters() -> tuple[Character, ...]:
    """The twenty characters of the sft, rl, val and id_test splits."""
    return _cast(words.TRAIN_NAMES, TRAINING, 0)


@functools.cache
def held_out_characters() -> tuple[Character, ...]:
    """The six characters of the ood_test split."""
    return _cast(words.HELD_OUT_NAMES, HELD_OUT, len(words.TRAIN_NAMES))


@functools.cache
def _reserved() -> tuple[frozenset[tuple[str, str]], frozenset[str]]:
    cast = held_out_characters()
    return frozenset((c.voice, c.mood) for c in cast), frozenset(c.catchphrase for c in cast)


def random_character(rng: Rng) -> Character:
    """A passer-by for the text-only data, who never has a held-out pairing of voice and mood or a held-out catchphrase.

    The held-out names are among the passers-by's: a name of untrained embeddings would test the tokenizer, not the
    role.
    """
    pairings, phrases = _reserved()
    names = words.OTHER_NAMES + words.HELD_OUT_NAMES
    while True:
        voice, mood = rng.choice(tuple(words.VOICES)), rng.choice(tuple(words.MOODS))
        frame, verb = rng.randrange(len(words.CATCH_FRAMES)), rng.randrange(len(words.CATCH_VERBS))
        phrase = _catchphrase(frame, verb, rng.randrange(len(words.CATCH_NOUNS)))
        if (voice, mood) not in pairings and phrase not in phrases:
            return Character(rng.choice(names), voice, mood, rng.choice(tuple(words.PASSIONS)), phrase)


def _by_slot(registers: dict[str, dict[str, tuple[str, ...]]]) -> dict[str, dict[str, tuple[str, ...]]]:
    """Register -> slot -> words turned into slot -> register -> words."""
    slots = next(iter(registers.values()))
    return {slot: {name: register[slot] for name, register in registers.items()} for slot in slots}


_VOICE_SLOTS, _MOOD_SLOTS = _by_slot(words.VOICES), _by_slot(words.MOODS)


class Speaker:
    """Picks a character's words, each from its own register, or at rate `noise` from nobody's or somebody else's.

    Two thirds of the noise are plain words, of which there are few: the likeliest single word of a slot is then a plain
    one, though most are the character's. Copying the data well is therefore not yet playing the role well.
    """

    PLAIN_SHARE = 2 / 3

    def __init__(self, character: Character, rng: Rng, noise: float = 0.0):
        self.character, self.rng, self.noise = character, rng, noise

    def _pick(self, slot: str, own: str, registers: dict[str, tuple[str, ...]]) -> str:
        register = own
        if self.rng.random() < self.noise:
            if self.rng.random() < self.PLAIN_SHARE:
                return self.rng.choice(words.PLAIN[slot])
            register = self.rng.choice([name for name in registers if name != own])
        return self.rng.choice(registers[register])

    def voice(self, slot: str) -> str:
        """A word for a slot of the voice: opening, address or see."""
        return self._pick(slot, self.character.voice, _VOICE_SLOTS[slot])

    def mood(self, slot: str) -> str:
        """A word for a slot of the mood: adjective or verb."""
        return self._pick(slot, self.character.mood, _MOOD_SLOTS[slot])

    def passion(self) -> str:
        """A noun to compare with."""
        return self._pick("passion", self.character.passion, words.PASSIONS)

    def greeting(self) -> str:
        """ "Ahoy, matey!"."""
        return f"{capitalize(self.voice('opening'))}, {self.voice('address')}!"
