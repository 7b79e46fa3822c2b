"""Recipes by name or file, and their parameters as flags."""

import dataclasses
import importlib
import inspect
import pkgutil
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import docstring_parser
import tyro

FUNCTION = "recipe"


class UnknownRecipeError(ValueError):
    """No recipe of that name, or a file without one."""


def shipped_recipes() -> dict[str, str]:
    """Name -> first line of the module's docstring, of the recipes that come with the package."""
    import lam_jax.recipes as package

    modules = [importlib.import_module(f"{package.__name__}.{m.name}") for m in pkgutil.iter_modules(package.__path__)]
    return {
        module.__name__.rpartition(".")[2]: (module.__doc__ or "").strip().split("\n")[0]
        for module in modules
        if hasattr(module, FUNCTION)
    }


def recipe_function(name: str) -> Callable[..., Any]:
    """The function `recipe` of a shipped recipe, or of a file `path/file.py`.

    Raises:
        UnknownRecipeError: there is none.
        ValueError: the file cannot be imported.
    """
    if name.endswith(".py"):
        module = module_at(name)
    elif name in (known := shipped_recipes()):
        module = importlib.import_module(f"lam_jax.recipes.{name}")
    else:
        raise UnknownRecipeError(f"Recipe {name!r}: expected one of {sorted(known)}, or a file that ends in .py.")
    found = getattr(module, FUNCTION, None)
    if not callable(found):
        raise UnknownRecipeError(
            f"Recipe {name}: the file has no function `{FUNCTION}`, expected one that returns a Recipe."
        )
    return found


def module_at(name: str) -> types.ModuleType:
    """The module in a file `path/file.py`.

    Raises:
        UnknownRecipeError: there is no such file.
        ValueError: it cannot be imported.
    """
    from lam_jax.rewards.functions import module_of

    path = Path(name).absolute()
    if not path.is_file():
        raise UnknownRecipeError(f"Recipe {name}: there is no file {path}.")
    return module_of(path)


def flags_of(function: Callable[..., Any], taken: Sequence[str]) -> type:
    """A dataclass of a function's parameters that flags can hold, with their help from its docstring.

    Parameters of other types (functions, dataclasses) keep their defaults.

    Args:
        function: a recipe's.
        taken: names of flags that every recipe has.

    Raises:
        ValueError: a parameter has the name of such a flag, or no default and a type that no flag has.
    """
    hints = typing.get_type_hints(function)
    texts = {
        p.arg_name: " ".join((p.description or "").split())
        for p in docstring_parser.parse(function.__doc__ or "").params
    }
    fields: list[Any] = []
    for parameter in inspect.signature(function).parameters.values():
        required = parameter.default is parameter.empty
        kind = flag_of(hints.get(parameter.name, str if required else type(parameter.default)))
        if parameter.name in taken:
            raise ValueError(f"Parameter {parameter.name!r} of the recipe is a flag of every recipe; rename it.")
        if kind is None or kind is type(None):
            if required:
                raise ValueError(f"Parameter {parameter.name!r} of the recipe is no flag's type; give it a default.")
            continue
        annotation = Annotated[kind, tyro.conf.arg(help=texts.get(parameter.name, ""))]
        default = dataclasses.MISSING if required else parameter.default
        fields.append((parameter.name, annotation, dataclasses.field(default=default, kw_only=True)))
    first = (function.__doc__ or "").strip().split("\n")[0]
    return dataclasses.make_dataclass("recipe", fields, namespace={"__doc__": first}, frozen=True)


def call_with(function: Callable[..., Any], flags: Any) -> Any:
    """What a recipe's function gives for a value of its `flags_of`."""
    return function(**{field.name: getattr(flags, field.name) for field in dataclasses.fields(flags)})


def flag_of(hint: Any) -> Any:
    """The part of a type that a flag can hold; None if there is none."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint in (int, float, str, bool, Path, type(None)) or origin is typing.Literal:
        return hint
    if origin is Annotated:
        inner = flag_of(arguments[0])
        return None if inner is None else Annotated[inner, *arguments[1:]]
    if origin in (typing.Union, types.UnionType):
        kept = [kind for argument in arguments if (kind := flag_of(argument)) is not None]
        return typing.Union[tuple(kept)] if any(kind is not type(None) for kind in kept) else None  # noqa: UP007
    if origin is tuple:
        inner = [argument if argument is ... else flag_of(argument) for argument in arguments]
        return None if None in inner else tuple[tuple(inner)]
    if isinstance(origin, type) and issubclass(origin, Sequence) and not issubclass(origin, Mapping):
        inner = flag_of(arguments[0])
        return None if inner is None else tuple[inner, ...]
    return None
