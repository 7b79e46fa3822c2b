import dataclasses
from collections import Counter

from lam_jax.scenes import words
from lam_jax.scenes.characters import held_out_characters, random_character, training_characters
from lam_jax.scenes.compose import concepts
from lam_jax.scenes.language import Rng, join, noun_phrase, with_article


def test_no_word_is_in_two_registers_of_role_play_and_none_names_an_object():
    slots = [slot for register in (*words.VOICES.values(), *words.MOODS.values()) for slot in register.values()]
    slots += words.PASSIONS.values()
    slots += [words.PLAIN[name] for name in ("opening", "address", "see", "adjective", "verb", "passion")]
    found = [word.lower() for slot in slots for word in slot]
    found += [word.lower() for word in words.CATCH_VERBS + words.CATCH_NOUNS]
    found += [form for concept in concepts() for form in (concept.name, concept.plural)]
    found += list(words.VOICES) + list(words.MOODS) + list(words.PASSIONS)
    assert [word for word, count in Counter(found).items() if count > 1] == []


def test_no_word_is_in_two_registers_of_help_and_none_names_an_object():
    found = [word for register in words.JOBS.values() for word in register]
    found += [word for feeling in words.FEELINGS.values() for slot in feeling.values() for word in slot]
    found += [word for slot in ("job", "mind", "body") for word in words.PLAIN[slot]]
    found += list(words.JOBS) + [form for concept in concepts() for form in (concept.name, concept.plural)]
    assert [word for word, count in Counter(found).items() if count > 1] == []


def test_every_slot_has_six_or_more_good_words():
    slots = [slot for register in (*words.VOICES.values(), *words.MOODS.values()) for slot in register.values()]
    slots += [*words.PASSIONS.values(), *words.JOBS.values()]
    slots += [slot for feeling in words.FEELINGS.values() for slot in feeling.values()]
    assert min(len(slot) for slot in slots) >= 6


def test_held_out_characters_share_registers_with_training_but_no_pairing_name_or_catchphrase():
    training, held_out = training_characters(), held_out_characters()
    assert (len(training), len(held_out)) == (20, 6)
    assert not {(c.voice, c.mood) for c in training} & {(c.voice, c.mood) for c in held_out}
    assert {c.voice for c in held_out} <= {c.voice for c in training}
    assert {c.mood for c in held_out} <= {c.mood for c in training}
    assert len({c.name for c in training + held_out}) == len({c.catchphrase for c in training + held_out}) == 26


def test_random_characters_keep_away_from_what_is_held_out():
    held_out = held_out_characters()
    drawn = [random_character(Rng(i)) for i in range(500)]
    assert not {(c.voice, c.mood) for c in drawn} & {(c.voice, c.mood) for c in held_out}
    assert not {c.catchphrase for c in drawn} & {c.catchphrase for c in held_out}
    assert not {c.name for c in drawn} & {c.name for c in training_characters()}


def test_profile_states_how_the_character_speaks():
    for character in training_characters() + held_out_characters():
        text = " ".join(character.profile.values())
        assert all(part in text for part in (character.voice, character.mood, character.passion, character.catchphrase))
        assert character.profile == dataclasses.replace(character).profile


def test_articles_plurals_and_lists():
    by_name = {concept.name: concept for concept in concepts()}
    assert noun_phrase(by_name["octopus"]) == "an octopus"
    assert noun_phrase(by_name["octopus"], 3) == "three octopuses"
    assert noun_phrase(by_name["loaf"], 2, "odd") == "two odd loaves"
    assert with_article("useless axe") == "a useless axe"
    assert with_article("unusual hat") == "an unusual hat"
    assert join(["a", "b", "c"]) == "a, b and c"
    assert join(["a"]) == "a"
