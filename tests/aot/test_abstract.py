"""Abstract inputs against real ones, made as training makes them, on eight host devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lam_jax.aot.abstract import abstract_batch, abstract_state, abstract_weights, bytes_per_chip
from lam_jax.aot.programs import STAGES, Setting, build
from lam_jax.aot.workload import Workload
from lam_jax.latent.agent import Agent
from lam_jax.latent.config import LATENT_PRESETS
from lam_jax.models.positions import image_layout
from lam_jax.models.qwen2_5_vl.presets import PRESETS
from lam_jax.nn.weight import materialize
from lam_jax.parallel import ROLLOUT, TRAIN, UPDATE, make_mesh, place, shardings
from lam_jax.parallel.choose_layout import choose_layout
from lam_jax.parallel.mesh import WIDE
from lam_jax.rollout.run import jitted, prepared
from lam_jax.rollout.weights import rollout_weights
from lam_jax.train.method import METHODS
from lam_jax.train.optimiser import OptimiserConfig, make_optimiser
from lam_jax.train.partition import partition
from lam_jax.train.spaces import LATENT
from lam_jax.train.stages import SFT_LATENT
from lam_jax.train.state import TrainState

CONFIG, METHOD = PRESETS["tiny"], METHODS["default"]
SPECS = Agent.spec(CONFIG, LATENT_PRESETS["tiny"])
WORK = Workload(rows=8, prompts=4, samples=2, prompt=24, completion=8, image=(56, 84))


@pytest.fixture(scope="module")
def mesh():
    return make_mesh((2, 2, 2))


@pytest.fixture(scope="module")
def agent(mesh):
    create = jax.jit(lambda key: materialize(SPECS, key), out_shardings=shardings(SPECS, mesh, TRAIN))
    return create(jax.random.key(0))


def described(tree):
    """(path, shape, dtype, sharding) of every leaf, the sharding as what each device holds."""
    return [
        (jax.tree_util.keystr(path), leaf.shape, leaf.dtype, leaf.sharding.devices_indices_map(leaf.shape))
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    ]


@pytest.mark.parametrize("stage", [SFT_LATENT, LATENT], ids=["sft_latent", "rl_latent"])
def test_state_and_frozen_half_equal_what_training_makes(agent, mesh, stage):
    parts = stage.trains(CONFIG, METHOD)
    optimiser = make_optimiser(OptimiserConfig(lr=1e-3), 10)
    trainable, frozen = partition(agent, parts)
    state = TrainState.create(trainable, optimiser, jax.random.key(0))
    abstract_trainable, abstract_frozen = partition(abstract_weights(SPECS, mesh, TRAIN), parts)
    assert described(abstract_frozen) == described(frozen)
    assert described(abstract_state(abstract_trainable, optimiser)) == described(state)


def test_rollout_weights_equal_what_rollouts_keep(agent, mesh):
    kept = rollout_weights(agent, SPECS, jnp.bfloat16)
    assert described(abstract_weights(SPECS, mesh, ROLLOUT, jnp.bfloat16)) == described(kept)


def test_batches_equal_placed_ones(mesh):
    grids = [[(1, 4, 6)]] * WORK.rows
    patch_hw, image_id, window_slots = image_layout(grids, CONFIG.vision).values()
    made = abstract_batch(CONFIG, WORK, WORK.rows, WORK.length, mesh, TRAIN)
    zeros = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), made)
    placed = place(zeros, mesh, TRAIN)
    assert described(made) == described(placed)
    assert made.tokens.shape == made.mask.shape == (8, 32)
    assert made.positions.shape == (8, 3, 32)
    for found, real in zip(
        (made.images.patch_hw, made.images.image_id, made.images.window_slots), (patch_hw, image_id, window_slots)
    ):
        assert (found.shape, found.dtype) == (real.shape, real.dtype)
    assert abstract_batch(CONFIG, WORK, WORK.rows, WORK.length, mesh, TRAIN, images=False).images is None


def test_a_rollout_is_placed_as_the_update_expects_it(agent, mesh):
    """The abstract rollout of the update against one that was rolled out."""
    setting = Setting("tiny", mesh, WORK, METHOD)
    config = setting.rl(LATENT).rollout
    prompts = jax.tree.map(lambda leaf: np.ones(leaf.shape, leaf.dtype), setting.prompts(ROLLOUT))
    space = prepared(LATENT.actions(agent, METHOD))
    ids = place(np.arange(8, dtype=np.int32).reshape(4, 2), mesh, ROLLOUT)
    prompts, key = place(prompts, mesh, ROLLOUT), jax.random.key(0)
    rolled = jitted(space, prompts, ids, key, config=config, mesh=mesh, layout=choose_layout(mesh))
    *_, batch = build("update_latent", setting).arguments
    expected = {path: (shape, dtype) for path, shape, dtype, _ in described(rolled)}
    assert {path: (shape, dtype) for path, shape, dtype, _ in described(batch.rollout)} == expected
    for name in ("tokens", "actions", "mask", "logps", "hidden", "prompt_hidden"):
        made, real = getattr(batch.rollout, name), getattr(rolled, name)
        assert made.sharding.is_equivalent_to(real.sharding, real.ndim), name
    assert UPDATE["samples"] == tuple(axis for axis in ROLLOUT["samples"] if axis != WIDE)  # which rollouts alone have


def test_bytes_per_chip_are_those_of_the_largest_shard(agent, mesh):
    leaves = jax.tree.leaves(agent)
    assert bytes_per_chip(agent) == sum(leaf.addressable_shards[0].data.nbytes for leaf in leaves)
    assert bytes_per_chip(abstract_weights(SPECS, mesh, TRAIN)) == bytes_per_chip(agent)


@pytest.mark.parametrize("stage", STAGES)
def test_every_program_traces_and_names_its_sizes(mesh, stage):
    program = build(stage, Setting("tiny", mesh, WORK))
    traced = program.trace()
    assert len(jax.tree.leaves(program.arguments)) == len(traced.jaxpr.in_avals)
    assert bytes_per_chip(program.resident) >= bytes_per_chip(program.arguments) > 0
    expected = {"joint": 2 * 256, "cloning": 2 * 256}.get(
        stage, 4 * 2 * 8 if "_" in stage and stage[0] in "ru" else 256
    )
    assert program.tokens == expected


def test_unknown_stages_are_refused(mesh):
    with pytest.raises(ValueError, match="Unknown stage 'dpo': expected one of"):
        build("dpo", Setting("tiny", mesh, WORK))
