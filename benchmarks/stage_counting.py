"""Useful FLOPs of one optimiser step of stages 1 to 5, by formula. B rows of L tokens, with and without an image."""

import dataclasses

from lam_jax.latent.config import LatentConfig
from lam_jax.models.config import BackboneConfig
from lam_jax.train.counting import Pass, causal_pairs, decoder, head, linear, merge, projectors, vision


@dataclasses.dataclass(frozen=True)
class StageSizes:
    """What a step sees.

    Attributes:
        config, latent: the model.
        rows: paired rows, and as many text-only rows in stages 3 and 4.
        length: tokens of a row.
        grid: patches of the image of a paired row.
        trained_blocks: top blocks that stage 5 trains.
    """

    config: BackboneConfig
    latent: LatentConfig
    rows: int
    length: int
    grid: tuple[int, int]
    trained_blocks: int

    @property
    def tokens(self) -> int:
        """Of the paired rows."""
        return self.rows * self.length

    def blocks(self, layers: int) -> Pass:
        """Decoder blocks over all rows of one kind."""
        return decoder(self.config.text, layers, self.tokens, causal_pairs(self.rows, self.length))

    def coder(self, layers: int) -> Pass:
        """Inverse dynamics or policy."""
        return self.blocks(layers) + linear(self.tokens, self.config.text.width, self.latent.codes)

    def vision(self) -> Pass:
        """The tower over one image a row."""
        return vision(self.config.vision, self.grid, self.rows)

    def backbone(self, with_image: bool) -> Pass:
        """States of one kind of rows."""
        states = self.blocks(self.config.text.layers)
        return states + self.vision() if with_image else states

    def inferred(self) -> float:
        """Inverse dynamics, codebook and merge in training, through the frozen head."""
        return self.inferred_codes() + head(self.config.text, self.tokens).both(trained=False)

    def inferred_codes(self) -> float:
        """The same without the head."""
        text = self.config.text
        trained = self.coder(self.latent.inverse_layers) + linear(self.tokens, self.latent.codes, text.width)
        trained += merge(text, self.latent, self.tokens)
        return trained.both(trained=True)

    def projectors(self, networks: int) -> Pass:
        """Bottlenecks over all rows of one kind."""
        return projectors(self.config.text, self.tokens, networks)


def inverse(sizes: StageSizes) -> float:
    """Stage 1."""
    return sizes.backbone(True).forward + sizes.inferred()


def projector(sizes: StageSizes) -> float:
    """Stage 2: states with the image and with the image withheld, both Gaussians."""
    states = sizes.backbone(True).forward + sizes.backbone(False).forward
    return states + sizes.projectors(4).both(trained=True)


def joint(sizes: StageSizes) -> float:
    """Stage 3: stages 1 and 2 on paired rows; stage 1 and the cycle (P's mean, then P') on text-only rows."""
    paired = projector(sizes) + sizes.inferred()
    text = sizes.backbone(False).forward + sizes.inferred() + sizes.projectors(3).both(trained=True)
    return paired + text


def cloning(sizes: StageSizes) -> float:
    """Stage 4 on both kinds of rows; the text-only ones pass P."""
    states = sizes.backbone(True).forward + sizes.backbone(False).forward + sizes.projectors(1).forward
    codes = 2 * sizes.coder(sizes.latent.inverse_layers).forward
    return states + codes + 2 * sizes.coder(sizes.latent.policy_layers).both(trained=True)


def sft_token(sizes: StageSizes) -> float:
    """Stage 5 of the token baseline: vision tower, top blocks, embedding and head train."""
    text = sizes.config.text
    lower = sizes.blocks(text.layers - sizes.trained_blocks).both(trained=False)
    top = sizes.blocks(sizes.trained_blocks) + sizes.vision() + head(text, sizes.tokens)
    return lower + top.both(trained=True)


def sft_latent(sizes: StageSizes) -> float:
    """Stage 5 `joint`: as the token baseline through the frozen merge, the inverse model's codes, the policy cloned."""
    codes = sizes.coder(sizes.latent.inverse_layers).forward
    codes += sizes.coder(sizes.latent.policy_layers).both(trained=True)
    return sft_token(sizes) + merge(sizes.config.text, sizes.latent, sizes.tokens).both(trained=False) + codes


def sft_learn(sizes: StageSizes) -> float:
    """Stage 5 `learn`: as `joint`, but inverse model, codebook and merge train too."""
    codes = sizes.inferred_codes() + sizes.coder(sizes.latent.policy_layers).both(trained=True)
    return sft_token(sizes) + codes


STAGE_FLOPS = {
    "inverse": inverse,
    "projector": projector,
    "joint": joint,
    "cloning": cloning,
    "sft_latent": sft_latent,
    "sft_token": sft_token,
    "sft_learn": sft_learn,
}
