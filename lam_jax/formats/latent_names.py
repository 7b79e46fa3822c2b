"""Names of the latent modules in the released code's state dict."""

from lam_jax.formats.names import Entry, decoder_blocks, linear, norm
from lam_jax.latent.config import LatentConfig
from lam_jax.models.config import TextSizes

_AT = "model.language_model"


def latent(config: LatentConfig, text: TextSizes) -> list[Entry]:
    """Entries of `LatentModel` beside a decoder. The released codebook is a Linear K -> D, hence transposed."""
    entries: list[Entry] = []
    for ours, depth in (("inverse", config.inverse_layers), ("policy", config.policy_layers)):
        entries += decoder_blocks(f"{ours}.blocks", f"{_AT}.{ours}_layers", depth, text)
        entries += norm(f"{ours}.norm", f"{_AT}.{ours}_norm")
        entries += linear(f"{ours}.head", f"{_AT}.{ours}_head")
    entries += [Entry("codebook", f"{_AT}.action_code_book.weight", "transposed")]
    for ours, theirs in (("gate", "fc_1"), ("up", "fc_2"), ("down", "proj")):
        name = f"{_AT}.action_merge_layers.{{layer}}.{theirs}"
        entries += linear(f"world.blocks.{ours}", name, config.merge_layers)
    for ours, theirs in (("projector", "Text2TV"), ("back_projector", "TV2Text")):
        for net, suffix in (("mean", "mu"), ("log_variance_net", "logvar")):
            entries += linear(f"{ours}.{net}.down", f"{_AT}.{theirs}_{suffix}.0", bias=True)
            entries += linear(f"{ours}.{net}.up", f"{_AT}.{theirs}_{suffix}.2", bias=True)
    return entries
