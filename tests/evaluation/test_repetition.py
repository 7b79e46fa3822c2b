import pytest

from lam_jax.evaluation.repetition import distinct_share, repeated_share, words


def test_words_are_lower_case_and_han_characters_stand_alone():
    assert words("It's a CAT, 2 cats!") == ["it", "s", "a", "cat", "2", "cats"]
    assert words("我爱cats和狗。") == ["我", "爱", "cats", "和", "狗"]


def test_repeated_share_by_hand():
    # a b c d a b c d: 4-grams abcd bcda cdab dabc abcd: 5 of which 4 differ.
    assert repeated_share("a b c d a b c d") == pytest.approx(1 / 5)
    assert repeated_share("a b c d e") == 0
    assert repeated_share("no " * 10) == pytest.approx(6 / 7)
    assert repeated_share("a b a b", n=2) == pytest.approx(1 / 3)


def test_a_text_without_ngrams_has_no_share():
    assert repeated_share("a b c") is None
    assert repeated_share("") is None
    assert repeated_share("我爱你") is None
    assert repeated_share("我爱你们") == 0


def test_distinct_share_by_hand():
    # Words: a b c, a b: 3 of 5. Pairs: ab bc, ab: 2 of 3; none across two texts.
    assert distinct_share(["a b c", "A b"], 1) == pytest.approx(3 / 5)
    assert distinct_share(["a b c", "A b"], 2) == pytest.approx(2 / 3)
    assert distinct_share(["a", "b"], 2) is None
