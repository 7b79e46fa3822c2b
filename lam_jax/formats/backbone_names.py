"""Which checkpoint tensor fills which weight of a backbone: read by loading, export and the parity tests.

Checkpoints on disk may use older prefixes (`visual.`, `model.`) than transformers' modules have today: `canonical` maps
those.
"""

from lam_jax.formats.families import format_of
from lam_jax.formats.names import Entry
from lam_jax.models.config import BackboneConfig


def backbone(config: BackboneConfig) -> list[Entry]:
    """Entries of a backbone."""
    return format_of(config).names(config)


def canonical(name: str) -> str:
    """The name in today's transformers of a tensor in a published file."""
    if name.startswith("visual."):
        return f"model.{name}"
    if name.startswith("model.") and not name.startswith(("model.visual.", "model.language_model.")):
        return f"model.language_model.{name.removeprefix('model.')}"
    return name
