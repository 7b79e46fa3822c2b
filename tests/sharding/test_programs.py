"""What compiled steps hold on a device and send to others; where parameters, optimiser state, caches and logits lie.

V vocabulary, D width, N prompts, G samples of a prompt, T completion length.
"""

import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from lam_jax.latent.agent import Agent, init_latent
from lam_jax.nn.kv_cache import KVCache
from lam_jax.nn.weight import is_weight, materialize
from lam_jax.parallel import ROLLOUT, TRAIN, make_mesh, place, shardings, use
from lam_jax.parallel.collectives import collectives
from lam_jax.parallel.mesh import reshaped
from lam_jax.parallel.rules import with_holes
from lam_jax.rollout.run import fill_prompts, jitted, prepared, run_rollout
from lam_jax.rollout.sampling import SamplingConfig
from lam_jax.train.spaces import SPACES
from tests.sharding import made
from tests.sharding.made import CONFIG, LATENT, VOCAB, ran

WIDTH = CONFIG.text.width
MOVES = ("all-gather", "all-to-all", "ragged-all-to-all", "collective-permute")
SPECS = jax.tree.leaves(Agent.spec(CONFIG, LATENT), is_leaf=is_weight)
STEPS = [*made.STAGES, "rl_latent", "rl_hybrid", "rl_token"]
ROLLOUTS = [f"rollout_{space}" for space in made.SAMPLING]


def arrays(text):
    """Shapes of all floating-point arrays in a program, as one device holds them."""
    found = re.findall(r"\b(?:f32|bf16|f64)\[([\d,]+)\]", text)
    return {tuple(int(n) for n in shape.split(",")) for shape in found}


def own_vocabulary(mesh):
    return VOCAB // made.MESHES[mesh][2]


def assert_vocabulary_stays_in_shards(name, mesh):
    text = ran(name, mesh).text
    if made.MESHES[mesh][2] > 1:
        assert not [shape for shape in arrays(text) if VOCAB in shape], "an array over the whole vocabulary"
    own = own_vocabulary(mesh)
    for c in collectives(text):
        # FSDP may gather a shard of the embedding over its width; an activation has other dimensions beside V.
        if c.kind in MOVES and {VOCAB, own} & set(c.shape):
            assert name in STEPS, c
            assert c.shape == (own, WIDTH), c


def weight_shapes():
    """Of a weight, of one layer of a stacked one, and transposed ones."""
    shapes = set()
    for weight in SPECS:
        own = weight.shape[1:] if weight.axes[0] == "layers" else weight.shape
        if len(own) == 2:
            shapes |= {own, own[::-1]}
    return shapes


def assert_whole_stacks_are_not_gathered(name, mesh):
    stacks = {w.shape for w in SPECS if w.axes[0] == "layers" and len(w.shape) == 3 and w.shape[0] > 1}
    parts = {(layers, *s[1:]) for s in stacks for layers in range(2, s[0] + 1)}
    sharded = {shard for shape in parts for shard in partial_gathers(shape, mesh)}
    for c in collectives(ran(name, mesh).text):
        if c.kind in MOVES:
            assert c.shape not in sharded, c


def partial_gathers(shape, mesh):
    """Shapes of a stack's shards after a gather over `fsdp`, over `tensor` or over both."""
    tensor = made.MESHES[mesh][2]
    layers, rows, columns = shape
    return {(layers, rows // a, columns // b) for a in (1, tensor) for b in (1, tensor) if a * b in (1, tensor)}


def assert_optimiser_state_is_not_moved(name, mesh):
    for c in collectives(ran(name, mesh).text):
        # The compiler joins reductions of the backward pass with those of the norm; their sources are joined too.
        inside = all("optimiser" in part for part in c.source.split(":"))
        assert not inside or (c.kind == "all-reduce" and math.prod(c.shape) == 1), c


def assert_weights_stay(name, mesh):
    """Rollouts: no weight, nor a part of one, is gathered for the others."""
    for c in collectives(ran(name, mesh).text):
        if c.kind in MOVES:
            assert tuple(n for n in c.shape if n > 1) not in weight_shapes(), c
            assert c.kind == "all-gather", c


@pytest.mark.parametrize("name", made.IN_BRIEF)
def test_a_step_moves_no_vocabulary_stack_or_optimiser_state(name):
    assert_vocabulary_stays_in_shards(name, "all")
    assert_whole_stacks_are_not_gathered(name, "all")
    assert_optimiser_state_is_not_moved(name, "all")


@pytest.mark.sharding
@pytest.mark.parametrize("mesh", ["data", "all", "tensor"])
@pytest.mark.parametrize("name", STEPS)
def test_every_step_moves_no_vocabulary_stack_or_optimiser_state(name, mesh):
    assert_vocabulary_stays_in_shards(name, mesh)
    assert_whole_stacks_are_not_gathered(name, mesh)
    assert_optimiser_state_is_not_moved(name, mesh)


@pytest.mark.parametrize("name", ["rollout_latent", "rollout_token"])
def test_a_rollout_moves_no_vocabulary_and_no_weight(name):
    assert_vocabulary_stays_in_shards(name, "all")
    assert_weights_stay(name, "all")


@pytest.mark.sharding
@pytest.mark.parametrize("mesh", ["data", "all", "tensor"])
@pytest.mark.parametrize("name", ROLLOUTS)
def test_every_rollout_moves_no_vocabulary_and_no_weight(name, mesh):
    assert_vocabulary_stays_in_shards(name, mesh)
    assert_weights_stay(name, mesh)


@pytest.mark.sharding
@pytest.mark.parametrize(
    ("space", "sizes"), [("latent", (2, 1, 2, 2)), ("latent", (4, 1, 2, 1)), ("token", (2, 1, 2, 2))]
)
def test_wide_rollouts_gather_samples_and_no_weights(space, sizes):
    """Of a block: samples gathered and scattered once, and the parts of small sums over `tensor` fetched twice."""
    training = made.on("all")
    mesh = reshaped(training, sizes)
    actions = prepared(SPACES[space].actions(made.agent(training), made.METHOD), mesh)
    prompts = place(fill_prompts(jax.tree.map(np.asarray, made.PROMPTS), actions), mesh, ROLLOUT)
    ids = np.arange(len(prompts.tokens) * made.G, dtype=np.int32).reshape(-1, made.G)
    ids = place(ids, mesh, ROLLOUT, "prompts", "samples")
    arguments = (actions, prompts, ids, jax.random.key(3))
    lowered = jitted.lower(*arguments, config=made.rollout_config(space), mesh=mesh, layout=made.scanned(mesh))
    found = collectives(lowered.compile().as_text())
    for c in found:
        if c.kind in MOVES:
            assert not c.unbounded or tuple(n for n in c.shape if n > 1) not in weight_shapes(), c
            assert VOCAB not in c.shape, c
    layers = [c for c in found if c.unbounded and "shard_map" in c.source and c.trips > 1]
    assert {c.kind for c in layers} <= {"all-gather", "all-to-all", "all-reduce"}
    mlp = next(leaf for leaf in jax.tree.leaves(actions.backbone.blocks.mlp.gate) if leaf.ndim == 3)
    assert mlp.sharding.shard_shape(mlp.shape)[-1] == mlp.shape[-1] // (sizes[2] * sizes[3])


def lies(array, mesh, *axes):
    return array.sharding.is_equivalent_to(NamedSharding(mesh, PartitionSpec(*axes)), array.ndim)


def assert_state_stays_in_place(name, mesh_name):
    mesh = made.on(mesh_name)
    state, _ = ran(name, mesh_name).outputs
    expected = with_holes(shardings(Agent.spec(CONFIG, LATENT), mesh, TRAIN), state.trainable)
    moments = made.adam(state)
    for tree in (state.trainable, moments.mu, moments.nu):
        for leaf, sharding in zip(jax.tree.leaves(tree), jax.tree.leaves(expected), strict=True):
            assert leaf.sharding.is_equivalent_to(sharding, leaf.ndim)


@pytest.mark.parametrize("name", made.IN_BRIEF)
def test_a_step_leaves_weights_and_optimiser_state_in_place(name):
    assert_state_stays_in_place(name, "all")


@pytest.mark.sharding
@pytest.mark.parametrize("mesh", ["data", "tensor"])
@pytest.mark.parametrize("name", STEPS)
def test_every_step_leaves_weights_and_optimiser_state_in_place(name, mesh):
    assert_state_stays_in_place(name, mesh)


@pytest.mark.parametrize("name", ["rollout_latent", "rollout_token"])
def test_rollout_buffers_lie_on_prompts_and_samples(name):
    mesh, out = made.on("all"), ran(name, "all").outputs
    for leaf in jax.tree.leaves(out.replace(prompt_hidden=None)):
        assert lies(leaf, mesh, "data", "fsdp")
    assert lies(out.prompt_hidden, mesh, "data")


@pytest.mark.parametrize(("mesh_name", "kv_axis"), [("all", "tensor"), ("tensor", None)])
def test_caches_and_logits_lie_in_shards(mesh_name, kv_axis):
    """Two kv heads are shared by four tensor shards: their caches are replicated over them."""
    mesh = made.on(mesh_name)
    space, prompts, *_ = made.rollout_arguments("token", mesh)

    @jax.jit
    def start(backbone, prompts):
        with use(mesh, ROLLOUT):
            _, kv = backbone.prefill(prompts)
            cache = KVCache.create(kv, prompts.mask, made.G, made.T, False)
            tokens = jnp.zeros((*cache.key.shape[1:3], 1), jnp.int32)
            rotary = backbone.rotary(jnp.ones((*tokens.shape[:2], 3, 1), jnp.int32))
            x, cache = backbone.decode(cache, tokens, rotary, jnp.int32(0))
            return backbone.logits(backbone.norm(x)), cache

    logits, cache = start(space.backbone, prompts)
    data, fsdp = (axis if mesh.shape[axis] > 1 else None for axis in ("data", "fsdp"))
    assert lies(logits, mesh, data, fsdp, None, "tensor")
    for leaf in (cache.key, cache.value):
        assert lies(leaf, mesh, None, data, fsdp, kv_axis)
    for leaf in (cache.prompt_key, cache.prompt_value):
        assert lies(leaf, mesh, None, data, kv_axis)


def test_weights_are_made_and_moved_without_a_full_copy():
    """The programs that create weights and that re-place them for rollouts hold shards only."""
    mesh = made.on("all")
    largest = max(math.prod(w.shape) // math.prod(made.MESHES["all"][1:]) for w in SPECS)
    agent = init_latent(made.agent(mesh).backbone, LATENT, jax.random.key(0), mesh)
    for leaf in jax.tree.leaves(agent):
        assert max(shard.data.size for shard in leaf.addressable_shards) <= largest
    create = jax.jit(
        lambda k: materialize(Agent.spec(CONFIG, LATENT), k),
        out_shardings=shardings(Agent.spec(CONFIG, LATENT), mesh, TRAIN),
    )
    text = create.lower(jax.random.key(0)).compile().as_text()
    assert max(math.prod(shape) for shape in arrays(text)) <= largest


def test_what_does_not_fit_is_refused_before_compilation():
    mesh = make_mesh((2, 2, 2))
    step, state, batch = made.stage_step("inverse", mesh)
    with pytest.raises(ValueError, match=r"'batch' \(rows of a batch\) of size 6 .* = 4 shards.*multiple of 4"):
        step(state, jax.tree.map(lambda x: x[:6], batch))
    space, prompts, ids, key, config = made.rollout_arguments("token", mesh)
    with pytest.raises(ValueError, match=r"'samples' .* of size 3 .* or samples of a prompt a multiple of 2"):
        run_rollout(space, prompts, np.zeros((made.N, 3), np.int32), key, config)
    nucleus = made.rollout_config("token", SamplingConfig(top_p=0.9))
    with pytest.raises(
        ValueError, match=r"232 likeliest of 232 tokens in shards of 116: .* Set a top_k of at most 116"
    ):
        run_rollout(space, prompts, ids, key, nucleus)
