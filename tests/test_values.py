"""Frozen dataclasses as JSON and back."""

import dataclasses
import json
import math
import re
from collections.abc import Callable, Mapping
from typing import Literal

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


@dataclasses.dataclass(frozen=True)
class Scale:
    factor: float

    def times(self, x):
        return self.factor * x


@dataclasses.dataclass(frozen=True)
class Typed:
    count: int = 1
    share: float | None = None
    sizes: tuple[int, ...] = ()
    place: tuple[float, float] = (0.0, 1.0)
    kind: Literal["a", "b"] = "a"
    inner: Inner | None = None
    by_name: Mapping[str, Inner] = dataclasses.field(default_factory=dict)
    on: bool = False
    call: Callable[[str], bool] | None = None
    anything: object = None


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
        ({"$type": 1}, r"found the key .\$type"),
        ({"a": [math.nan]}, r"value.a\[0\]: found nan, expected a finite number"),
        (Outer(Inner(function=Scale(2.0).times)), "value.inner.function: .*Scale.times names something else"),
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


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("count", "1"),
        ("count", 1.5),
        ("count", True),
        ("share", "0.1"),
        ("sizes", 3),
        ("sizes", ["3"]),
        ("place", [0.0]),
        ("kind", "c"),
        ("inner", {"lr": 0.1}),
        ("by_name", {"a": 1}),
        ("on", "false"),
        ("on", 0),
        ("call", "math:sin"),
    ],
)
def test_a_field_of_another_type_is_named(field, value):
    with pytest.raises(ValueFormError, match=rf"value\.{field}: found .*, expected "):
        decode(encode(Typed()) | {field: value})


@pytest.mark.parametrize(
    "value",
    [
        Typed(share=1, place=(0, 1)),
        Typed(2, 0.5, (1, 2), (0.5, 1.0), "b", Inner(0.1), {"a": Inner()}, True, str.isdigit, ("x", 1)),
    ],
)
def test_fields_of_the_right_types_come_back(value):
    assert decode(json.loads(json.dumps(encode(value)))) == value
