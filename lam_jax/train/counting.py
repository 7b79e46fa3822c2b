"""Bytes and useful FLOPs of each program, from the sizes alone: matrix products only, masked pairs left out.

Useful means: what the mathematics needs. Recomputation under remat, padding and masked attention scores do not count.
The last layer counts for every position of a prompt, though updates of small stacks leave most of it out (2 % at mid).
"""

import dataclasses

from lam_jax.latent.config import LatentConfig
from lam_jax.models.config import BackboneConfig, TextSizes, VisionSizes
from lam_jax.nn.stored import BYTES, Storage
from lam_jax.parallel.choose_rollout_mesh import Decoding

Grid = tuple[int, int]


@dataclasses.dataclass(frozen=True)
class Pass:
    """FLOPs of a forward pass, in products with weights and in products of activations (attention)."""

    weights: float = 0.0
    activations: float = 0.0

    def __add__(self, other: "Pass") -> "Pass":
        return Pass(self.weights + other.weights, self.activations + other.activations)

    @property
    def forward(self) -> float:
        """FLOPs forward."""
        return self.weights + self.activations

    def backward(self, trained: bool) -> float:
        """FLOPs of gradients to the inputs, and to the weights if they train; activations have two operands each."""
        return (2 if trained else 1) * self.weights + 2 * self.activations

    def both(self, trained: bool) -> float:
        """Forward and backward."""
        return self.forward + self.backward(trained)


def causal_pairs(rows: float, length: float) -> float:
    """(query, key) pairs of causal self-attention; lengths may be means."""
    return rows * length * (length + 1) / 2


def continuation_pairs(samples: int, prompt: float, length: float) -> float:
    """Pairs of `samples` continuations, whose queries see the prompt and their own past."""
    return samples * length * prompt + causal_pairs(samples, length)


def block_weights(text: TextSizes) -> int:
    """Entries of the matrices of one decoder block."""
    kv = text.kv_heads * text.head_dim
    return 2 * text.width * text.attention_width + 2 * text.width * kv + 3 * text.width * text.hidden


def merge_weights(text: TextSizes, latent: LatentConfig) -> int:
    """Entries of the matrices of all merge blocks."""
    return latent.merge_layers * (2 * 2 * text.width * text.hidden + text.hidden * text.width)


def merge_state_weights(text: TextSizes, latent: LatentConfig) -> int:
    """Of these, the entries that multiply states, not codes."""
    return latent.merge_layers * 3 * text.width * text.hidden


def decoder(text: TextSizes, layers: int, tokens: float, pairs: float) -> Pass:
    """`layers` decoder blocks over `tokens` positions with `pairs` attended pairs a layer."""
    return Pass(2.0 * layers * tokens * block_weights(text), 4.0 * layers * pairs * text.attention_width)


def linear(tokens: float, inputs: int, outputs: int) -> Pass:
    """One matrix over `tokens` positions."""
    return Pass(2.0 * tokens * inputs * outputs)


def head(text: TextSizes, tokens: float) -> Pass:
    """The vocabulary."""
    return linear(tokens, text.width, text.vocab_size)


def merge(text: TextSizes, latent: LatentConfig, tokens: float) -> Pass:
    """The world model's merge blocks."""
    return Pass(2.0 * tokens * merge_weights(text, latent))


def projectors(text: TextSizes, tokens: float, networks: int) -> Pass:
    """`networks` bottlenecks width -> width/2 -> width."""
    return Pass(networks * 2.0 * tokens * 2 * text.width * (text.width // 2))


def vision(config: VisionSizes, grid: Grid | None, images: float) -> Pass:
    """The vision tower over `images` images of `grid` = (h, w) patches; nothing without a grid."""
    if grid is None:
        return Pass()
    height, width = grid
    weights, pairs = config.weights_of(height * width), config.pairs_of(height, width)
    return Pass(2.0 * images * weights, 4.0 * images * pairs * config.width)


def latent_update(
    config: BackboneConfig,
    latent: LatentConfig,
    prompts: int,
    samples: int,
    prompt: float,
    length: float,
    reference: bool = True,
) -> float:
    """FLOPs of a latent update: policy forward and backward, `reference` forward, each prompt once."""
    text = config.text
    tokens = prompts * (prompt + samples * length)
    pairs = prompts * (causal_pairs(1, prompt) + continuation_pairs(samples, prompt, length))
    policy = decoder(text, latent.policy_layers, tokens, pairs)
    policy += linear(prompts * samples * length, text.width, latent.codes)
    return policy.both(trained=True) + (policy.forward if reference else 0.0)


def hybrid_update(
    config: BackboneConfig,
    latent: LatentConfig,
    prompts: int,
    samples: int,
    prompt: float,
    length: float,
    reference: bool = True,
) -> float:
    """FLOPs of a hybrid update: a latent one, and the merge, which trains, and the head of each completion token."""
    text, tokens = config.text, prompts * samples * length
    world, table = merge(text, latent, tokens), head(text, tokens)
    emission = world.both(trained=True) + table.both(trained=False)
    emission += (world + table).forward if reference else 0.0
    return latent_update(config, latent, prompts, samples, prompt, length, reference) + emission


def token_update(
    config: BackboneConfig,
    trained: int,
    tables: bool,
    grid: Grid | None,
    prompts: int,
    samples: int,
    prompt: float,
    length: float,
    reference: bool = True,
) -> float:
    """FLOPs of a token update with `trained` top blocks and, if `tables`, embedding and head in training.

    Without the tables nothing below the trained blocks has a gradient, so those run forward only.
    """
    text = config.text
    tokens = prompts * (prompt + samples * length)
    pairs = prompts * (causal_pairs(1, prompt) + continuation_pairs(samples, prompt, length))
    lower, upper = decoder(text, text.layers - trained, tokens, pairs), decoder(text, trained, tokens, pairs)
    table = head(text, prompts * samples * length)
    seen = vision(config.vision, grid, prompts)
    # The reference shares the frozen part below what trains: vision always, the lower blocks unless embeddings train.
    shared = seen.forward + (0.0 if tables else lower.forward)
    again = upper.forward + table.forward + (lower.forward if tables else 0.0)
    policy = upper.both(trained=True) + table.both(trained=tables)
    policy += lower.both(trained=False) if tables else 0.0
    return shared + (again if reference else 0.0) + policy


def plain_token_update(
    config: BackboneConfig, trained: int, grid: Grid, prompts: int, samples: int, prompt: int, length: int
) -> float:
    """FLOPs of the token update as released: each sample runs its whole row again, picture and prompt included."""
    text, rows = config.text, prompts * samples
    tokens, pairs = rows * (prompt + length), causal_pairs(rows, prompt + length)
    lower, upper = decoder(text, text.layers - trained, tokens, pairs), decoder(text, trained, tokens, pairs)
    table, seen = head(text, rows * length), vision(config.vision, grid, rows)
    reference = seen.forward + lower.forward + upper.forward + table.forward
    return reference + seen.forward + lower.both(trained=False) + upper.both(trained=True) + table.both(trained=True)


def rollout_flops(
    config: BackboneConfig,
    latent: LatentConfig | None,
    grid: Grid | None,
    prompts: int,
    samples: int,
    prompt: float,
    length: float,
) -> float:
    """FLOPs of a rollout, each prompt once: of tokens, or of codes if `latent` is given."""
    text = config.text
    before, after = prompts * prompt, prompts * samples * length
    pairs = prompts * (causal_pairs(1, prompt) + continuation_pairs(samples, prompt, length))
    layers = text.layers + (latent.policy_layers if latent else 0)
    total = vision(config.vision, grid, prompts) + decoder(text, layers, before + after, pairs) + head(text, after)
    if latent:
        total += Pass(2.0 * after * merge_state_weights(text, latent)) + linear(after, text.width, latent.codes)
    return total.forward


@dataclasses.dataclass(frozen=True)
class DecodeBytes:
    """Bytes that a decode step has to read at least: every weight once, and the live part of the caches.

    The half of the merge's maps that multiplies codes is not among them: with a fixed codebook it is a look-up.
    """

    weights: float
    caches: float

    @property
    def total(self) -> float:
        """Both."""
        return self.weights + self.caches


def decode_bytes(
    config: BackboneConfig,
    latent: LatentConfig | None,
    prompts: int,
    samples: int,
    prompt: int,
    length: int,
    item: int = 4,
    blocks: Storage = "same",
    head: Storage = "same",
) -> DecodeBytes:
    """Of a step of token decoding, or of latent decoding if `latent` is given; suffixes at their mean length.

    `item` is the bytes of a number; `blocks` and `head` say how the backbone's matrices are held (scales left out).
    """
    text = config.text
    layers = text.layers + (latent.policy_layers if latent else 0)
    own = text.layers * block_weights(text) * BYTES.get(blocks, item)
    own += text.vocab_size * text.width * BYTES.get(head, item)
    weights = 0
    if latent:
        weights = latent.policy_layers * block_weights(text)
        weights += merge_state_weights(text, latent) + text.width * latent.codes
    kv = 2 * layers * text.kv_heads * text.head_dim
    positions = prompts * (prompt + samples * (length + 1) / 2)
    return DecodeBytes(float(own + weights * item), float(kv * positions * item))


def decoding_of(
    config: BackboneConfig,
    latent: LatentConfig | None,
    sizes: tuple[int, int, int, int],
    blocks: Storage = "same",
    head: Storage = "same",
) -> Decoding:
    """What a rollout's decode steps read and send, for the choice of its mesh.

    Args:
        config: of the backbone.
        latent: of latent or hybrid decoding; None: of tokens.
        sizes: prompts, samples, tokens of a prompt and of a completion.
        blocks, head: as of `decode_bytes`.
    """
    text, item = config.text, config.dtype.itemsize
    prompts, samples, prompt, completion = sizes
    layers = text.layers + (latent.policy_layers if latent else 0)
    read = decode_bytes(config, latent, *sizes, item, blocks, head)
    attention = block_weights(text) - 3 * text.width * text.hidden
    attention = attention * (text.layers * BYTES.get(blocks, item) + (layers - text.layers) * item)
    return Decoding(
        attention=float(attention),
        others=read.weights - attention,
        position=2.0 * layers * text.kv_heads * text.head_dim * item,
        kv_heads=text.kv_heads,
        prompts=prompts,
        samples=samples,
        prompt=prompt,
        completion=completion,
        layers=layers,
        # One of embeddings, one a merge block, two for the likeliest token.
        sums=1 + (latent.merge_layers if latent else 0) + 2,
        sum_bytes=float(text.width * item),
    )
