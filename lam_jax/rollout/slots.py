"""Samples that begin and end at steps of their own in the rows of one decode program: the engine's step, under a ring.

A sample joins between two segments of steps, in a slot that another one left. All slots write their token at the same
place of the suffix (a ring of T places), and each sees the places that it wrote itself (`KVCache.age`), so that a step
is one program whoever is under way. What is drawn depends on a sample's own key and step, never on its slot.
Legend: S slots, P longest prompt, T places of the ring, A actions, C steps of a segment.
"""

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float32, Int32, Key

from lam_jax.models.inputs import Batch
from lam_jax.nn.kv_cache import KVCache
from lam_jax.nn.layout import Layout
from lam_jax.nn.leaf import Leaf
from lam_jax.parallel import ROLLOUT, place, use
from lam_jax.parallel.choose_layout import statics
from lam_jax.rl.masks import is_end
from lam_jax.rollout.actions import ActionSpace, first_position, token_positions
from lam_jax.rollout.engine import Running, begin, decode_step, rotary_at
from lam_jax.rollout.run import prepared
from lam_jax.rollout.sampling import RowSampling, SamplingConfig
from lam_jax.rollout.steering import SteeredActions


class Draws(struct.PyTreeNode):
    """How a slot's actions are drawn; all of it inputs, so that another value compiles nothing."""

    key: Key[Array, "*S"] | Leaf  # of the sample; folded with its step
    temperature: Float32[Array, "*S"] | Leaf
    top_p: Float32[Array, "*S"] | Leaf
    bias: Float32[Array, "*S A"] | Leaf  # on the logits of actions


class Slots(struct.PyTreeNode):
    """All samples under way."""

    now: Running  # N = S, G = 1
    draws: Draws
    first: Int32[Array, " S"] | Leaf  # position of the first token
    has_image: Bool[Array, " S"] | Leaf
    age: Int32[Array, " S"] | Leaf  # tokens so far
    limit: Int32[Array, " S"] | Leaf  # most tokens
    alive: Bool[Array, " S"] | Leaf
    place: Int32[Array, ""] | Leaf  # of the ring, written next


class Opening(struct.PyTreeNode):
    """Prompts that were read: what each of their samples begins with."""

    now: Running  # G = 1, room for one token
    first: Int32[Array, " N"] | Leaf
    has_image: Bool[Array, " N"] | Leaf


class Piece(NamedTuple):
    """What a segment added, on the host, [S, C]; where `mask` is False nothing was."""

    tokens: np.ndarray
    actions: np.ndarray
    logps: np.ndarray
    mask: np.ndarray
    spoilt: np.ndarray  # logits were NaN, see `require_numbers`


@dataclasses.dataclass(frozen=True)
class SlotSizes:
    """Shapes of the decode program.

    Attributes:
        slots: S, samples under way at a time.
        prompt: P, tokens of the longest prompt.
        length: T, most tokens of a sample.
        segment: C, steps between two looks at who has ended and who joins.
    """

    slots: int
    prompt: int
    length: int
    segment: int = 4

    def __post_init__(self):
        for name in ("slots", "prompt", "length", "segment"):
            if getattr(self, name) < 1:
                raise ValueError(f"SlotSizes.{name} must be at least 1, got {getattr(self, name)}.")


class SlotDecoder:
    """The slots and their programs, for one thread.

    Decoding reads weights laid out for it, which lie beside those that prompts are read with.

    Args:
        space: token, latent or hybrid actions, on one device.
        sizes: shapes.
        sampling: the top-k, repetition penalty and kind of log-probability of all samples; temperature and top-p are
            each sample's own.

    Raises:
        ValueError: the weights lie on several devices.
    """

    def __init__(self, space: ActionSpace, sizes: SlotSizes, sampling: SamplingConfig):
        self.sizes, self._space, self._sampling = sizes, prepared(space), sampling
        static = statics(self._space)
        mesh, layout = static["mesh"], static["layout"]
        if mesh is not None and mesh.size > 1:
            raise ValueError(f"The weights lie on {mesh.size} devices; slots need them on one.")
        # The fused attention of NVIDIA GPUs knows one step for all.
        self._static = {"mesh": mesh, "layout": dataclasses.replace(layout, decode_layer=None)}
        self._decoding = _laid_out(self._space, **self._static)
        self.clear()

    def clear(self) -> None:
        """Empties all slots; after an error of a program, which may have taken their arrays with it."""
        self._slots = _empty(self._space, self.sizes, self._sampling, **self._static)

    @property
    def actions(self) -> int:
        """A."""
        return self._slots.draws.bias.shape[-1]

    def together(self, length: int) -> tuple[int, ...]:
        """How many prompts of a length may be read at a time: 1, 2 or 4, as far as they make one of the longest."""
        most = min(self.sizes.prompt / length + 0.1, self.sizes.slots)
        return (1, *(count for count in (2, 4) if count <= most))

    def read(self, prompts: Batch) -> Opening:
        """Reads prompts, the rows of a host batch."""
        prompts = place(prompts, self._static["mesh"], ROLLOUT)
        return _read(self._space, prompts, sampling=self._sampling, **self._static)

    def join(
        self,
        slot: int,
        opening: Opening,
        key: Key[Array, ""],
        sample: int,
        *,
        limit: int,
        temperature: float,
        top_p: float = 1.0,
        bias: np.ndarray | None = None,
        row: int = 0,
    ) -> None:
        """A sample begins in a slot, whoever was there.

        Args:
            slot: which.
            opening: of its prompt, and of those that were read with it.
            key: of the request, as `run_rollout` takes it.
            sample: its number there.
            limit: its most tokens, at most T.
            temperature: 0 is greedy.
            top_p: as of `SamplingConfig`.
            bias: float32 [A] on the logits of actions.
            row: of its prompt among those of the opening.
        """
        if not 1 <= limit <= self.sizes.length:
            raise ValueError(f"A sample of at most {limit} tokens, expected 1 to {self.sizes.length}.")
        bias = np.zeros(self.actions, np.float32) if bias is None else bias
        draws = Draws(key, np.float32(temperature), np.float32(top_p), bias)
        numbers = np.array([slot, sample, limit, row], np.int32)
        self._slots = _join(self._slots, opening, draws, numbers, **self._static)

    def segment(self, keep: np.ndarray, truncates: bool) -> Piece:
        """The next steps of all samples, at most C of them; fewer if all end before.

        Args:
            keep: bool [S], False ends a sample here.
            truncates: whether a sample's top-p is below 1.
        """
        self._slots, found = _segment(
            self._decoding,
            self._slots,
            np.asarray(keep),
            np.asarray(truncates),
            steps=self.sizes.segment,
            sampling=self._sampling,
            **self._static,
        )
        return Piece(*jax.device_get(found))


@functools.partial(jax.jit, static_argnames=("mesh", "layout"))
def _laid_out(space: ActionSpace, mesh: Mesh | None, layout: Layout) -> ActionSpace:
    with use(mesh, ROLLOUT, layout):
        return space.decoding()


def _opening(space: ActionSpace, prompts: Batch, room: int, sampling: SamplingConfig) -> Opening:
    now, _ = begin(space, prompts, 1, room, sampling)
    return Opening(now, first_position(prompts).astype(jnp.int32), prompts.has_image)


@functools.partial(jax.jit, static_argnames=("sampling", "mesh", "layout"))
def _read(space: ActionSpace, prompts: Batch, sampling: SamplingConfig, mesh: Mesh | None, layout: Layout) -> Opening:
    with use(mesh, ROLLOUT, layout):
        return _opening(space, prompts, 1, sampling)


@functools.partial(jax.jit, static_argnames=("sizes", "sampling", "mesh", "layout"))
def _empty(space: ActionSpace, sizes: SlotSizes, sampling: SamplingConfig, mesh: Mesh | None, layout: Layout) -> Slots:
    """Slots in which nobody is."""
    count, structure = sizes.slots, None

    def leaves() -> list[Array]:  # of a tree whose fields take arrays only
        nonlocal structure
        row = jnp.zeros((count, sizes.prompt), jnp.int32)
        yes = row == 0
        prompts = Batch(row, yes, yes, yes, jnp.zeros((count, 3, sizes.prompt), jnp.int32), jnp.zeros(count, bool))
        found, structure = jax.tree.flatten(_opening(space, prompts, sizes.length, sampling))
        return found

    with use(mesh, ROLLOUT, layout):
        zeros = [jnp.zeros(x.shape, x.dtype) for x in jax.eval_shape(leaves)]
    assert structure is not None
    blank: Opening = structure.unflatten(zeros)
    now = jax.tree.map(
        lambda x: x.as_ring() if isinstance(x, KVCache) else x, blank.now, is_leaf=lambda x: isinstance(x, KVCache)
    )
    keys = jnp.broadcast_to(jax.random.key(0), (count,))
    ones = jnp.ones(count, jnp.float32)
    draws = Draws(keys, ones, ones, jnp.zeros((count, now.logits.shape[-1]), jnp.float32))
    none = jnp.zeros(count, jnp.int32)
    return Slots(now, draws, none, none > 0, none, none, none > 0, jnp.int32(0))


@functools.partial(jax.jit, static_argnames=("mesh", "layout"), donate_argnames=("slots",))
def _join(
    slots: Slots, opening: Opening, draws: Draws, numbers: Int32[Array, " 4"], mesh: Mesh | None, layout: Layout
) -> Slots:
    """`draws` with the request's key; `numbers`: slot, sample, limit, row of the opening."""
    slot, sample, limit, row = numbers[0], numbers[1], numbers[2], numbers[3]

    def put(x: Any, new: Any) -> Any:
        if isinstance(x, KVCache):
            return x.with_prompt(slot, new, row)
        return x.at[slot].set(new[row])

    def put_one(x: Array, new: Array) -> Array:
        return x.at[slot].set(new)

    own = draws.replace(key=jax.random.fold_in(draws.key, sample))
    with use(mesh, ROLLOUT, layout):
        return slots.replace(
            now=jax.tree.map(put, slots.now, opening.now, is_leaf=lambda x: isinstance(x, KVCache)),
            draws=jax.tree.map(put_one, slots.draws, own),
            first=put(slots.first, opening.first),
            has_image=put(slots.has_image, opening.has_image),
            age=put_one(slots.age, jnp.int32(0)),
            limit=put_one(slots.limit, limit),
            alive=put_one(slots.alive, jnp.bool_(True)),
        )


@functools.partial(jax.jit, static_argnames=("steps", "sampling", "mesh", "layout"), donate_argnames=("slots",))
def _segment(
    decoding: ActionSpace,
    slots: Slots,
    keep: Bool[Array, " S"],
    truncates: Bool[Array, ""],
    steps: int,
    sampling: SamplingConfig,
    mesh: Mesh | None,
    layout: Layout,
) -> tuple[Slots, tuple[Array, ...]]:
    model, draws = decoding.backbone.config, slots.draws
    steered = SteeredActions(decoding, draws.bias[:, None])
    rows = RowSampling(
        draws.temperature[:, None],
        draws.top_p[:, None],
        truncates,
        sampling.top_k,
        sampling.repetition_penalty,
        sampling.renormalise,
    )
    ring = jax.tree.leaves(slots.now.cache.value)[0].shape[-2]
    shape = (len(keep), steps)
    tokens = jnp.full(shape, model.pad_id, jnp.int32)
    out = (tokens, jnp.zeros(shape, jnp.int32), jnp.zeros(shape, jnp.float32), *(jnp.zeros(shape, bool),) * 2)

    def step(carried: tuple[Array, Slots, tuple[Array, ...]]) -> tuple[Array, Slots, tuple[Array, ...]]:
        at, slots, out = carried
        keys = jax.vmap(jax.random.fold_in)(slots.draws.key, slots.age)[:, None]
        rotary = rotary_at(decoding.backbone, token_positions(slots.first + slots.age + 1, 1))
        now, act = decode_step(
            steered, slots.now, keys, slots.alive[:, None], slots.has_image, rotary, slots.place, rows
        )
        token, drawn = act.token[:, 0], jax.tree.map(lambda x: x[:, 0], act.drawn)
        found = (token, drawn.action, drawn.logp, slots.alive, jnp.isnan(drawn.logp + drawn.logp_gap) & slots.alive)
        out = tuple(jax.lax.dynamic_update_index_in_dim(x, new, at, 1) for x, new in zip(out, found))
        age = slots.age + 1
        alive = slots.alive & ~is_end(token, model.eos_ids) & (age < slots.limit)
        after = slots.replace(now=now, age=age, alive=alive, place=(slots.place + 1) % ring)
        return at + 1, after, out

    with use(mesh, ROLLOUT, layout):
        slots = slots.replace(alive=slots.alive & keep)
        _, slots, out = jax.lax.while_loop(
            lambda carried: (carried[0] < steps) & jnp.any(carried[1].alive), step, (jnp.int32(0), slots, out)
        )
    return slots, out
