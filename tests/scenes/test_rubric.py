import json
import random

import numpy as np
import pytest

from lam_jax.data.schemas import Where
from lam_jax.scenes import make_rubric, rows
from lam_jax.scenes.compose import concepts
from lam_jax.scenes.grammar import ASSET, copied_share, is_fluent, load_grammar, ngrams, repeated_share, tokens
from lam_jax.scenes.rubric import DIMENSIONS, Rubric, ramp
from lam_jax.tasks.mmrole import mmrole_examples
from lam_jax.tasks.pcogalign import pcogalign_examples

TASKS = ("role_play", "help")
EVERYTHING = ", ".join(f"a {concept.name}" for concept in concepts())

CHARACTER = {
    "name": "Finn",
    "voice": "pirate",
    "mood": "cheerful",
    "passion": "cooking",
    "catchphrase": "Hoist the flag!",
    "style_words": {"voice": ["Ahoy", "matey", "spy"], "mood": ["merry", "warms"], "passion": ["soup"]},
}
FACTS = {
    "task": "role_play",
    "objects": [
        {"name": "lion", "category": "animal", "x": 20, "y": 40, "size": 30},
        {"name": "boat", "category": "vehicle", "x": 80, "y": 40, "size": 30},
    ],
    "background": "beach",
    "question": {"kind": "describe", "answer": [], "objects": ["boat", "lion"], "first": True},
    "character": CHARACTER,
    "role": None,
}
GOOD = "Ahoy, matey! I spy a merry lion and a merry boat. It warms my heart like soup. Hoist the flag!"
PROMPT = "You are Finn. Catchphrase: Hoist the flag! Question: What do you see?"


def examples(task, split, count=120):
    if task == "role_play":
        return [e for i in range(count) for e in mmrole_examples(rows.role_play(split, i), Where("scenes"))]
    return [e for i in range(count) for e in pcogalign_examples(rows.help_row(split, i), Where("scenes"))]


@pytest.fixture(scope="module")
def training():
    return {task: examples(task, "rl") for task in TASKS}


def reward(task, found, answers):
    prompts, references = [e.prompt for e in found], [e.reference for e in found]
    return Rubric(task).reward(answers, [e.facts for e in found], prompts, references)


def dimension(name, answer, facts=FACTS, prompt=PROMPT):
    return Rubric(facts["task"]).score(answer, facts, prompt)[name]


CLEAN = [("role_play", split) for split in ("rl", "val", "id_test", "ood_test")]
CLEAN += [("help", split) for split in ("rl", "val", "ls1", "ls2")]


@pytest.mark.parametrize(("task", "split"), CLEAN)
def test_clean_references_have_full_marks(task, split):
    found = examples(task, split)
    assert len(found) >= 100
    scored = reward(task, found, [e.reference for e in found])
    np.testing.assert_allclose(scored.scores, 10.0, atol=0.02)
    np.testing.assert_allclose(scored.rewards, 1.0)
    assert all(is_fluent(e.reference) for e in found)


@pytest.mark.parametrize("task", TASKS)
def test_noisy_references_are_worth_less_but_much(task):
    found = examples(task, "sft", 200)
    means = reward(task, found, [e.reference for e in found]).reference_scores.mean(axis=1) / 10
    low, high = {"role_play": (0.6, 0.85), "help": (0.85, 0.97)}[task]
    assert low < means.mean() < high
    assert means.std() > 0.05


def last_user_message(found):
    return [e.prompt[-1]["content"] for e in found]


def whole_prompt(found):
    return ["\n".join(message["content"] for message in e.prompt) for e in found]


def every_object(found):
    return [f"I see {EVERYTHING}." for _ in found]


def every_object_behind_the_reference(found):
    return [f"{e.reference} I see {EVERYTHING}." for e in found]


def catchphrase(e):
    return (e.facts["character"] or {"catchphrase": "I am here to help."})["catchphrase"]


def catchphrase_alone(found):
    return [catchphrase(e) for e in found]


def catchphrase_again_and_again(found):
    return [" ".join([catchphrase(e)] * 8) for e in found]


def reference_of_another_row(found):
    others = found[::-1]
    return [other.reference for other in others]


def nothing(found):
    return ["" for _ in found]


def blanks(found):
    return [" \n " for _ in found]


def shuffled_words(found):
    generator = random.Random(0)
    shuffled = []
    for e in found:
        words = e.reference.split()
        generator.shuffle(words)
        shuffled.append(" ".join(words))
    return shuffled


def reference_twice(found):
    return [f"{e.reference} {e.reference}" for e in found]


ATTACKS = (
    last_user_message,
    whole_prompt,
    every_object,
    every_object_behind_the_reference,
    catchphrase_alone,
    catchphrase_again_and_again,
    reference_of_another_row,
    nothing,
    blanks,
    shuffled_words,
    reference_twice,
)


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.__name__)
@pytest.mark.parametrize("task", TASKS)
def test_gaming_pays_at_most_half(task, attack, training):
    found = training[task]
    assert len(found) >= 100
    rewards = reward(task, found, attack(found)).rewards
    assert rewards.mean() <= 0.5
    assert rewards.min() >= 0.0999  # every dimension is at least 1


def test_appending_the_catchphrase_does_not_pay(training):
    found = training["role_play"]
    answers = [" ".join([e.reference, *[catchphrase(e)] * 3]) for e in found]
    assert reward("role_play", found, answers).rewards.mean() <= 0.5


@pytest.mark.parametrize("task", TASKS)
def test_truncation_costs_more_the_earlier_it_is(task, training):
    found = training[task]
    cut = [
        reward(task, found, [" ".join(e.reference.split()[: int(len(e.reference.split()) * share)]) for e in found])
        for share in (0.25, 0.5, 0.75)
    ]
    means = [scored.rewards.mean() for scored in cut]
    assert means[0] < means[1] < means[2] < 0.85


def test_hand_scored_answer_has_full_marks():
    assert Rubric("role_play").score(GOOD, FACTS, PROMPT) == pytest.approx(dict.fromkeys(DIMENSIONS["role_play"], 10.0))


@pytest.mark.parametrize(
    ("old", "new", "name", "expected"),
    [
        # one of two objects mistaken: recall 1/2 times precision 1/2
        ("lion", "tulip", "Image-Text Relevance", 1 + 9 * 0.25),
        # one object missing: recall 1/2
        (" and a merry boat", "", "Image-Text Relevance", 1 + 9 * 0.5),
        # one of three words of the voice is nobody's
        ("Ahoy", "Hello", "Personality Consistency", 1 + 9 * 2 / 3),
        # one of three words of the voice is a cowboy's
        ("matey", "partner", "Personality Consistency", 1 + 9 * 2 / 3),
        # one of two adjectives is gloomy: half of the half for adjectives
        ("merry lion", "dreary lion", "Tone Consistency", 1 + 9 * 0.75),
        ("warms", "saddens", "Tone Consistency", 1 + 9 * 0.5),
        ("soup", "waves", "Knowledge Consistency", 1 + 9 * 0.5),
        (" Hoist the flag!", "", "Knowledge Consistency", 1 + 9 * 0.5),
        # two of four tokens of the catchphrase
        ("Hoist the flag!", "Hoist the moon!", "Knowledge Consistency", 1 + 9 * (0.5 * 0.5 + 0.5)),
    ],
)
def test_partly_right_answers_are_partly_paid(old, new, name, expected):
    answer = GOOD.replace(old, new)
    assert answer != GOOD
    assert dimension(name, answer) == pytest.approx(expected, abs=0.02)


def test_a_catchphrase_said_twice_is_worth_half_of_one():
    """Its half of the dimension is halved; the other half, for the passion, stays, and six repeated words are few."""
    twice = f"{GOOD} Hoist the flag!"
    assert dimension("Knowledge Consistency", twice) == pytest.approx(1 + 9 * (0.5 / 2 + 0.5))
    assert dimension("Knowledge Consistency", GOOD) == pytest.approx(10.0)


def test_a_catchphrase_may_be_copied_from_the_prompt_once_only():
    """Twice the phrase is the phrase and a copy of the prompt, which is paid nothing; once it is paid something."""
    phrase = "Ahoy, matey, I spy a merry lion!"
    facts = {**FACTS, "character": {**CHARACTER, "catchphrase": phrase}}
    prompt = f"You are Finn. Catchphrase: {phrase} Question: What do you see?"
    once, twice = (Rubric("role_play").score(text, facts, prompt) for text in (phrase, f"{phrase} {phrase}"))
    assert once["Knowledge Consistency"] > 4
    assert set(twice.values()) == {1.0}


def test_a_wrong_place_costs_and_no_place_does_not():
    right, wrong = (GOOD.replace("boat.", f"boat {place}.") for place in ("on the beach", "in the gym"))
    assert dimension("Image-Text Relevance", right) == pytest.approx(10.0)
    assert dimension("Image-Text Relevance", wrong) == pytest.approx(1 + 9 * 0.5)


@pytest.mark.parametrize(
    ("question", "answer", "expected"),
    [
        ({"kind": "left_of", "answer": ["lion"], "objects": ["lion"]}, "On the left I spy a merry lion", 1.0),
        ({"kind": "left_of", "answer": ["lion"], "objects": ["lion"]}, "On the left I spy a merry boat", 0.0),
        ({"kind": "left_of", "answer": ["lion"], "objects": ["lion"]}, "I spy a merry lion and a merry boat", 0.5),
        ({"kind": "place", "answer": ["beach"], "objects": []}, "I spy a merry lion on the beach", 1.0),
        ({"kind": "place", "answer": ["beach"], "objects": []}, "I spy a merry lion in the gym", 0.0),
        ({"kind": "count", "answer": ["two"], "objects": []}, "I spy two things, a merry lion and a merry boat", 1.0),
        ({"kind": "count", "answer": ["two"], "objects": []}, "I spy three things, a merry lion and a merry boat", 0.0),
        ({"kind": "category", "answer": ["yes"], "objects": ["lion"]}, "Yes, I spy a merry lion", 1.0),
        ({"kind": "category", "answer": ["yes"], "objects": ["lion"]}, "No, I only spy a merry lion", 0.5),
        ({"kind": "favorite", "answer": ["lion", "boat"], "objects": []}, "I spy a merry boat. It is my favorite", 1.0),
    ],
)
def test_questions_are_checked_by_their_kind(question, answer, expected):
    facts = {**FACTS, "question": {**question, "first": False}}
    full = f"{answer}, matey. It warms my heart like soup. Hoist the flag!"
    assert dimension("Response Accuracy", full, facts) == pytest.approx(1 + 9 * expected, abs=0.02)


def test_repeating_an_earlier_turn_counts_as_copying():
    prompt = [{"role": "user", "content": f"History:\n[Finn]: {GOOD}\nQuestion: And now?"}]
    assert sum(Rubric("role_play").score(GOOD, FACTS, prompt).values()) < 0.5 * 80


@pytest.mark.parametrize(
    ("word", "name"),
    [("role", "Role-Set Sensitivity"), ("job", "Role-Set Sensitivity"), ("mind", "Mind Feelings Awareness")],
)
def test_help_pays_for_the_words_of_this_user_only(word, name, training):
    e = training["help"][0]
    known = e.facts["role"]
    own = {"role": [known["role"]], "job": known["job_words"], "mind": known["mind_words"]}[word]
    used = next(w for w in own if f" {w} " in f" {' '.join(tokens(e.reference))} ")
    foreign = sorted(load_grammar().classes[word] - set(own))[0]
    answer = e.reference.replace(used, foreign)
    scores, full = (Rubric("help").score(text, e.facts, e.prompt)[name] for text in (answer, e.reference))
    assert full == pytest.approx(10, abs=0.02)
    assert scores < 7


def test_verdicts_and_shared_rows_agree_with_single_scores(training):
    e = training["help"][0]
    answers = [e.reference, "I am here to help.", ""]
    scored = Rubric("help").reward(answers, [e.facts] * 3, [e.prompt] * 3, [e.reference] * 3)
    single = [sum(Rubric("help").score(a, e.facts, e.prompt).values()) for a in answers]
    np.testing.assert_allclose(scored.rewards, np.array(single) / single[0])
    np.testing.assert_allclose([verdict.reward for verdict in scored.verdicts()], scored.rewards)
    assert scored.dimensions == tuple(DIMENSIONS["help"])
    assert scored.scores.shape == scored.reference_scores.shape == (3, 5)


def test_no_answers_give_no_rewards():
    assert Rubric("help").reward([], [], [], []).rewards.shape == (0,)


def test_wrong_task_and_uneven_lists_are_named():
    with pytest.raises(ValueError, match="found task 'caption'"):
        Rubric("caption")
    with pytest.raises(ValueError, match="facts of task 'role_play', expected 'help'"):
        Rubric("help").score("Yes.", FACTS, "")
    with pytest.raises(ValueError, match=r"\[1, 0, 0, 0\]"):
        Rubric("help").reward(["Yes."], [], [], [])


@pytest.mark.parametrize(
    ("text", "fluent"),
    [
        (GOOD, True),
        ("It is natural to feel shy. Take your time.", True),
        ("", False),
        ("Ahoy!", False),
        (GOOD[:-1], False),
        (GOOD.replace("I spy a merry lion", "I spy spy spy a merry lion"), False),
        (f"{GOOD} {GOOD} {GOOD}", False),
        ("ahoy, matey! i spy a merry lion.", False),
        ("Lion the heart merry a. Spy flag it like boat matey.", False),
    ],
)
def test_fluency_check(text, fluent):
    assert is_fluent(text) is fluent


def test_shares_by_hand():
    assert ramp(0.5, 0.0, 2.0) == 0.25
    assert ramp(0.9, 0.8, 0.5) == 0.0
    assert repeated_share(["a", "b", "c", "a", "b", "c"]) == pytest.approx(0.25)  # abc bca cab abc
    assert copied_share(list("xabcdeyz"), ngrams(list("qabcdeq"))) == pytest.approx(5 / 8)
    assert copied_share(["a", "b"], ngrams(["a", "b"])) == 0.0


def test_articles_are_part_of_fluency():
    good, bad = (GOOD.replace("merry boat", f"{words} boat") for words in ("odd", "merry"))
    grammar = load_grammar()
    assert grammar.known_share(tokens(good.replace("a odd", "an odd")), "role_play") == 1.0
    assert grammar.known_share(tokens(bad.replace("a merry lion", "an merry lion")), "role_play") < 1.0


def test_shipped_tables_are_those_of_the_grammar():
    made, shipped = make_rubric.tables(60), json.loads(ASSET.read_text())
    seen, known = made.pop("trigrams"), shipped.pop("trigrams")
    assert made == shipped
    for task in TASKS:
        assert set(seen[task]) <= set(known[task])
