"""The paper's ablations of any recipe: without a part of the method, or with other numbers of codes."""

import dataclasses
from typing import Literal

from lam_jax.recipe import Recipe

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
