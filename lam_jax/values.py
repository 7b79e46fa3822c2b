"""Frozen dataclasses as JSON values and back: how a recipe is printed, stored, compared and read again.

A dataclass becomes an object with its class under "$type", a function one with its name under "$function"; both are
named `module:qualified.name` and imported when they are read. Sequences become lists and come back as tuples.
"""

import dataclasses
import hashlib
import importlib
import json
import math
import sys
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any

TYPE, FUNCTION = "$type", "$function"


class ValueFormError(ValueError):
    """Something that cannot be a part of a recipe, or JSON that no recipe was written as; names the place."""


class StandInError(ValueFormError):
    """A stand-in was used; names what it stands for."""


class StandIn:
    """Stands for a function or class that a recipe names and this process has not imported; using it is an error."""

    def __init__(self, encoded: dict[str, Any], where: str):
        """Keeps the JSON, which `encode` gives back."""
        self._encoded, self._where = encoded, where

    @property
    def _name(self) -> str:
        return self._encoded.get(FUNCTION) or self._encoded[TYPE]

    def _fail(self) -> typing.NoReturn:
        raise StandInError(
            f"{self._where}: {self._name!r} is needed here but was not imported when the recipe was read. Import its "
            "module first, or read the recipe in the program that defines it."
        )

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Fails."""
        self._fail()

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):  # copying and inspecting ask for such
            raise AttributeError(name)
        self._fail()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, StandIn) and self._encoded == other._encoded

    def __hash__(self) -> int:
        return hash(self._name)

    def __repr__(self) -> str:
        return f"<{self._name}, not imported>"


def encode(value: Any, where: str = "value") -> Any:
    """JSON values of frozen dataclasses, module functions, mappings, sequences and plain values.

    Raises:
        ValueFormError: anything else, for example a lambda or an open file.
    """
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, StandIn):
        return value._encoded
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ValueFormError(f"{where}: found {value}, expected a finite number.")
        return value
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        if not value.__dataclass_params__.frozen:  # pyright: ignore[reportAttributeAccessIssue]
            raise ValueFormError(f"{where}: {type(value).__qualname__} is no frozen dataclass, so it may change.")
        fields = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
        return {TYPE: _name(type(value), where)} | {n: encode(v, f"{where}.{n}") for n, v in fields.items()}
    if isinstance(value, Mapping):
        if bad := [key for key in value if not isinstance(key, str) or key in (TYPE, FUNCTION)]:
            raise ValueFormError(
                f"{where}: found the key {bad[0]!r}, expected strings other than {TYPE!r} and {FUNCTION!r}."
            )
        return {key: encode(item, f"{where}.{key}") for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [encode(item, f"{where}[{index}]") for index, item in enumerate(value)]
    if callable(value) and hasattr(value, "__qualname__"):
        return {FUNCTION: _name(value, where)}
    raise ValueFormError(
        f"{where}: found {type(value).__name__} {value!r}, expected a frozen dataclass, a function of a module, a "
        "mapping, a sequence, a string, a number or None."
    )


def _name(item: Any, where: str) -> str:
    name = f"{getattr(item, '__module__', None) or 'builtins'}:{item.__qualname__}"
    if "<" in name:
        raise ValueFormError(f"{where}: {name} has no name that it could be found by; define it in a module.")
    if _find(name, where) != item:
        raise ValueFormError(f"{where}: {name} names something else than {item!r}; use a function of a module.")
    return name


def decode(value: Any, where: str = "value", stand_ins: bool = False) -> Any:
    """The inverse of `encode`.

    Args:
        value: JSON values.
        where: what they are, for messages.
        stand_ins: modules outside lam_jax are not imported: what a module that is not there yet would hold, and what is
            not found, becomes a `StandIn`. Without it they are imported, and what is not found is an error.

    Raises:
        ValueFormError: an unknown class or function, missing or unknown fields, or a field of another type or that the
            class refuses.
    """
    if isinstance(value, list):
        return tuple(decode(item, f"{where}[{index}]", stand_ins) for index, item in enumerate(value))
    if not isinstance(value, dict):
        return value
    if FUNCTION in value:
        return _named(value, value[FUNCTION], where, stand_ins)
    kind = _named(value, value[TYPE], where, stand_ins) if TYPE in value else None
    if isinstance(kind, StandIn):
        return kind
    fields = {key: decode(item, f"{where}.{key}", stand_ins) for key, item in value.items() if key != TYPE}
    if kind is None:
        return fields
    if not (isinstance(kind, type) and dataclasses.is_dataclass(kind)):
        raise ValueFormError(f"{where}: {value[TYPE]!r} is no dataclass.")
    known = {f.name for f in dataclasses.fields(kind)}
    if unknown := sorted(set(fields) - known):
        raise ValueFormError(f"{where}: {kind.__qualname__} has no field {unknown[0]!r}, expected {sorted(known)}.")
    hints = typing.get_type_hints(kind)
    for name, item in fields.items():
        if not _fits(item, hints[name]):
            raise ValueFormError(f"{where}.{name}: found {item!r}, expected {_hint_name(hints[name])}.")
    if _holds_stand_in(fields):
        return _unchecked(kind, fields)
    try:
        return kind(**fields)
    except (TypeError, ValueError) as error:
        raise ValueFormError(f"{where}: {error}") from error


def _named(encoded: dict[str, Any], name: Any, where: str, stand_ins: bool) -> Any:
    """The class or function of that name, or its stand-in."""
    if not stand_ins:
        return _find(name, where)
    module = str(name).partition(":")[0]
    try:
        # Importing a user's script again could start its training again.
        if module in sys.modules or f"{module}.".startswith("lam_jax."):
            return _find(name, where)
    except ValueFormError:
        pass
    return StandIn(encoded, where)


def _holds_stand_in(value: Any) -> bool:
    """Whether a decoded value is a stand-in or has one inside."""
    if dataclasses.is_dataclass(value):
        value = vars(value)
    if isinstance(value, dict):
        value = tuple(value.values())
    return isinstance(value, StandIn) or (isinstance(value, tuple) and any(map(_holds_stand_in, value)))


def _unchecked(kind: type, fields: dict[str, Any]) -> Any:
    """A dataclass whose own checks might use a stand-in inside it; they were passed when it was first made."""
    made = object.__new__(kind)
    for field in dataclasses.fields(kind):
        if field.name in fields:
            item = fields[field.name]
        elif field.default_factory is not dataclasses.MISSING:
            item = field.default_factory()
        else:
            item = field.default
        object.__setattr__(made, field.name, item)
    return made


def _fits(value: Any, hint: Any) -> bool:
    """Whether a decoded value is what a field's annotation says; annotations of other kinds take anything."""
    if isinstance(value, StandIn):
        return True
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return any(_fits(value, arg) for arg in args)
    if origin is typing.Literal:
        return value in args
    if origin is tuple:
        if not isinstance(value, tuple):
            return False
        kinds = args[:1] * len(value) if args[1:] == (...,) else args
        return len(value) == len(kinds) and all(map(_fits, value, kinds))
    if origin is not None and isinstance(origin, type) and issubclass(origin, Mapping):
        return isinstance(value, Mapping) and all(_fits(item, args[1]) for item in value.values())
    if hint in (int, float):
        return isinstance(value, (int, float) if hint is float else int) and not isinstance(value, bool)
    if isinstance(hint, type) and (hint in (bool, str, type(None)) or dataclasses.is_dataclass(hint)):
        return isinstance(value, hint)
    return callable(value) if origin is Callable else True


def _hint_name(hint: Any) -> str:
    return hint.__name__ if isinstance(hint, type) else str(hint).replace("typing.", "")


def _find(name: Any, where: str) -> Any:
    try:
        module, _, path = name.partition(":")
        found: Any = importlib.import_module(module)
        for part in path.split("."):
            found = getattr(found, part)
        return found
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueFormError(f"{where}: there is no {name!r} here ({error}), expected `module:name`.") from error


def fingerprint(value: Any) -> str:
    """SHA-256 of a value that `encode` takes."""
    return hash_json(encode(value))


def hash_json(value: Any) -> str:
    """SHA-256 of JSON values."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def differences(found: Any, expected: Any, name: str = "") -> list[str]:
    """The entries in which two JSON values differ, as "name: found .., expected .."."""
    if isinstance(found, dict) and isinstance(expected, dict):
        keys = [*expected, *(key for key in found if key not in expected)]
        pairs = [(key, found.get(key, "nothing"), expected.get(key, "nothing")) for key in keys]
        return [line for key, a, b in pairs for line in differences(a, b, f"{name}.{key}" if name else key)]
    if isinstance(found, list) and isinstance(expected, list) and len(found) == len(expected):
        pairs = zip(found, expected)
        return [line for index, (a, b) in enumerate(pairs) for line in differences(a, b, f"{name}[{index}]")]
    return [] if found == expected else [f"{name}: found {found!r}, expected {expected!r}"]
