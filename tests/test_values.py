"""Frozen dataclasses as JSON and back."""

import dataclasses
import json
import math
import re

import pytest

from lam_jax.values import ValueFormError, decode, differences, encode, fingerprint


@dataclasses.dataclass(frozen=True)
class Inner:
    lr: float = 1e-3
    sizes: tuple[int, ...] = (1, 2)
    function: object = math.sin

    def __post_init__(self):
        if self.lr <= 0:
            raise ValueError(f"Inner.lr is {self.lr}, expected more than 0.")


@dataclasses.dataclass(frozen=True)
class Outer:
    inner: Inner = Inner()
    by_name: dict = dataclasses.field(default_factory=lambda: {"a": Inner(2.0)})
    nothing: None = None


@dataclasses.dataclass
class Loose:
    x: int = 0


def test_a_round_trip_gives_an_equal_value():
    value = Outer(Inner(0.5, (3,), math.cos))
    text = json.dumps(encode(value))
    assert decode(json.loads(text)) == value
    assert fingerprint(decode(json.loads(text))) == fingerprint(value) != fingerprint(Outer())


def test_differences_name_the_place():
    moved = differences(encode(Outer(Inner(0.5))), encode(Outer()))
    assert moved == ["inner.lr: found 0.5, expected 0.001"]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (Outer(Inner(function=lambda x: x)), "value.inner.function: .*<lambda> has no name"),
        (Outer(by_name={"a": {1, 2}}), "value.by_name.a: found set"),
        (Outer(by_name={"a": Loose()}), "value.by_name.a: Loose is no frozen dataclass"),
        ({"$type": 1}, "found the key .\$type"),
    ],
)
def test_what_no_recipe_may_hold(value, message):
    with pytest.raises(ValueFormError, match=message):
        encode(value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"lr": -1.0}, re.escape("value.inner: Inner.lr is -1.0, expected more than 0.")),
        ({"lrr": 1.0}, "value.inner: Inner has no field 'lrr'"),
        ({"$type": "tests.test_values:Nothing"}, "value.inner: there is no 'tests.test_values:Nothing' here"),
        ({"$type": "math:sin"}, "value.inner: 'math:sin' is no dataclass"),
        ({"function": {"$function": "no_module:f"}}, "value.inner.function: there is no 'no_module:f'"),
    ],
)
def test_json_that_is_no_recipe(change, message):
    text = encode(Outer())
    text["inner"] |= change
    with pytest.raises(ValueFormError, match=message):
        decode(text)
