"""The paper's ablations of any recipe: without a part of the method, or with other numbers of codes."""

import dataclasses
from typing import Literal

from lam_jax.recipe import Recipe
from lam_jax.recipes import demo

Part = Literal["cycle", "projector", "text-only"]


def without(whole: Recipe, part: Part) -> Recipe:
    """The recipe without a part of the method (method.md section 3)."""
    method = {
        "cycle": {"cycle": False},
        "projector": {"project": False},
        "text-only": {"text_only": False},
    }[part]
    return dataclasses.replace(
        whole, name=f"{whole.name} without {part}", method=dataclasses.replace(whole.method, **method)
    )


def with_codes(whole: Recipe, codes: int) -> Recipe:
    """The recipe with another number of latent actions."""
    latent = dataclasses.replace(whole.latent, codes=codes)
    return dataclasses.replace(whole, name=f"{whole.name} with {codes} codes", latent=latent)


def recipe(part: Part | None = None, codes: int | None = None, seed: int = 0) -> Recipe:
    """The demo's recipe, ablated.

    Args:
        part: what is left out.
        codes: number of latent actions; default: the demo's.
        seed: of everything random.
    """
    whole = demo.recipe(seed)
    whole = whole if part is None else without(whole, part)
    return whole if codes is None else with_codes(whole, codes)
