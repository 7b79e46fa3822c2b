"""Stage 6 of games: what a batch holds, its loss and gradient against a plain computation, and that returns go up.

N prompts, G samples of a prompt, K turns of a game, T tokens of an answer.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lam_jax.data.collator import Collated, Cuts
from lam_jax.data.schemas import Example
from lam_jax.parallel import TRAIN, make_mesh, shardings
from lam_jax.rl import ALGORITHMS
from lam_jax.rollout.engine import RolloutConfig
from lam_jax.rollout.sampling import HybridSampling, SamplingConfig
from lam_jax.train.optimiser import OptimiserConfig, make_optimiser
from lam_jax.train.partition import partition
from lam_jax.train.rl import RLStep
from lam_jax.train.rl_config import RLConfig
from lam_jax.train.rl_episodes import EpisodeCollector
from lam_jax.train.rl_rewards import Decoder
from lam_jax.train.rl_update import Update
from lam_jax.train.spaces import SPACES
from lam_jax.train.state import TrainState
from tests import tiny
from tests.environments.counting import Counting
from tests.made_reward import as_reward
from tests.tiny import Row, make_batch
from tests.train import plain_rl
from tests.train.made_rl import METHOD, Actions, Numbers, apply, gradient, moved_state, named
from tests.train.test_rl_updates import jitted_logps, pulled_back

N, G, K, T, P = 2, 4, 3, 3, 24
BETA = 0.3
ROWS = [Example(f"row{n}", ({"role": "user", "content": f"{20 + n} 21"},)) for n in range(N)]


def collate(conversations, rows=None) -> Collated:
    """Prompts of the words of all turns, one behind the other."""
    made = [Row(tuple(int(w) for m in c.messages for w in m["content"].split())) for c in conversations]
    made += [Row(())] * ((rows or len(made)) - len(made))
    return Collated(make_batch(made, P, left=True), tuple(conversations), Cuts())


@as_reward
def unasked(examples, answers):
    raise AssertionError("games are rewarded by their environment")


def settings(space: str, name: str = "grpo", **changes) -> RLConfig:
    sampling = {"hybrid": HybridSampling(emission=0.6)}.get(space, SamplingConfig())
    fields = {"prompts": N, "epochs": 2, "optimiser": OptimiserConfig(lr=1e-3, clip_norm=1e9)} | changes
    algorithm = dataclasses.replace(ALGORITHMS[name], beta=BETA)
    return RLConfig(algorithm, SPACES[space], rollout=RolloutConfig(G, T, sampling, stop=True), turns=K, **fields)


def make(config: RLConfig, refill=(), agent=None):
    trainable, frozen = partition(agent or tiny.agent(), config.space.trains(tiny.CONFIG, METHOD))
    optimiser = make_optimiser(config.optimiser, config.steps * config.updates)
    arguments = (config, METHOD, frozen, Counting(K), unasked, Decoder(Numbers()), iter(refill), collate)
    step = RLStep(EpisodeCollector(*arguments), Update(config, METHOD, optimiser, frozen, trainable))
    return step, lambda: TrainState.create(trainable, optimiser, jax.random.key(0))


def by_game(x) -> np.ndarray:
    """[N * G * K, 1, ..] as [N, G, K, ..]."""
    x = np.asarray(x)
    return x.reshape(N, G, K, *x.shape[2:])


def replayed(batch) -> tuple[np.ndarray, np.ndarray]:
    """Returns [N, G] and turns that were played [N, G, K], from the tokens alone and by the rules of the game."""
    tokens, mask = by_game(batch.rollout.tokens), by_game(batch.rollout.mask)
    returns, alive = np.zeros((N, G)), np.zeros((N, G, K), bool)
    for n, g in np.ndindex(N, G):
        for k in range(K):
            alive[n, g, k] = True
            numbers = [int(t) for t in tokens[n, g, k][mask[n, g, k]] if t >= tiny.FIRST_WORD]
            returns[n, g] += np.mean([x % 2 == 0 for x in numbers] or [0])
            if not numbers or numbers[0] % 2:
                break
    return returns, alive


@pytest.mark.parametrize("space", ["token", "latent", "hybrid"])
def test_a_batch_and_its_update(space):
    """Only the agent's tokens of turns that were played count; the loss takes a game as one sequence."""
    step, create = make(settings(space))
    state = moved_state(step, create)
    batch, metrics = step.prepare(state, collate(ROWS))
    returns, alive = replayed(batch)
    assert 0 < alive[:, :, 1:].mean() < 1, "games of one turn and of more"
    mask = by_game(batch.mask)
    assert (mask.any(axis=-1) == alive).all()
    assert metrics["reward_mean"] == pytest.approx(returns.mean())
    assert metrics["turns_mean"] == pytest.approx(alive.sum(axis=-1).mean())
    assert metrics["length_mean"] == pytest.approx(mask.sum(axis=(2, 3)).mean())
    expected, _ = plain_rl.advantages(returns, np.ones((N, G), bool), "group_std")
    np.testing.assert_allclose(by_game(batch.advantages), np.repeat(expected[..., None], K, axis=2), atol=1e-5)

    # Each prompt holds the row, the answers so far and what was seen after them.
    tokens = by_game(batch.rollout.tokens)
    for n, g, k in zip(*np.nonzero(alive)):
        words = [int(w) for w in ROWS[n].messages[0]["content"].split()]
        for turn in range(k):
            said = [int(t) for t in tokens[n, g, turn][mask[n, g, turn]] if t >= tiny.FIRST_WORD]
            words += [*said, 30 + turn, said[0]]
        row = (n * G + g) * K + k
        assert np.asarray(batch.prompts.tokens)[row][np.asarray(batch.prompts.mask)[row]].tolist() == words

    taken = Actions(*(np.asarray(x) for x in (batch.rollout.tokens, batch.rollout.actions, batch.rollout.mask)))
    how = {"space": space, "temperature": 1.0, "project": True, "emission": step.config.rollout.sampling.emission}

    def logps(trainable) -> np.ndarray:
        return by_game(jitted_logps(trainable, step.update.frozen, batch.prompts, taken, **how))

    now, ref = logps(state.trainable), logps(step.update.reference)
    np.testing.assert_allclose(np.where(mask, now, 0), np.where(mask, by_game(batch.rollout.logps), 0), atol=2e-4)

    def loss(values) -> jax.Array:
        # A game's answers one behind the other: [N, G, K * T].
        flat = [jnp.asarray(x).reshape(N, G, K * T) for x in (values, now, ref, mask)]
        return plain_rl.loss(*flat[:3], expected, np.asarray(flat[3]), beta=BETA, low=0.2, high=0.2, sequences=N * G)

    weight = jax.grad(loss)(jnp.asarray(now)).reshape(taken.mask.shape)
    wanted = named(pulled_back(state.trainable, step.update.frozen, batch.prompts, taken, weight, **how))
    value = float(loss(now))
    after, applied = apply(step, jax.tree.map(lambda x: x.copy(), state), batch)
    assert float(applied["loss"]) == pytest.approx(value, rel=1e-3, abs=1e-5)
    found = gradient(step, after)
    assert found.keys() == wanted.keys()
    for name, want in wanted.items():
        np.testing.assert_allclose(found[name], want, atol=2e-4 * max(0.1, abs(want).max()), err_msg=name)


def test_shares_and_parts_keep_games_whole():
    """Two mini-batches are the games of one prompt each; micro-batches change nothing but rounding."""
    step, create = make(settings("latent", mini_batches=2))
    state = create()
    batch, _ = step.prepare(state, collate(ROWS))
    # What a checkpoint between two updates is restored into.
    like = step.buffer_like(state, collate(ROWS))
    assert jax.tree.map(lambda x: (x.shape, x.dtype), like) == jax.tree.map(lambda x: (x.shape, x.dtype), batch)
    shares = [step.share(batch, index) for index in range(2)]
    for n, share in enumerate(shares):
        own = slice(n * G * K, (n + 1) * G * K)
        np.testing.assert_array_equal(share.rollout.tokens, np.asarray(batch.rollout.tokens)[own])
    whole, create = make(settings("latent"))
    parts, _ = make(settings("latent", micro_batches=2))
    found = []
    for one in (whole, parts):
        after, metrics = apply(one, create(), batch)
        found.append((float(metrics["loss"]), gradient(one, after)))
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-4, abs=1e-6)
    for name, want in found[0][1].items():
        np.testing.assert_allclose(found[1][1][name], want, atol=1e-5, err_msg=name)


def test_groups_without_a_signal_are_replaced_with_their_games():
    """DAPO: a prompt whose games all return the same gives its rows to one whose games do not."""
    config = settings("latent", "dapo")
    refill = [collate([dataclasses.replace(row, id=f"more{n}") for n, row in enumerate(ROWS)])] * 4
    step, create = make(config, refill)
    found = step.collect
    batch, metrics = step.prepare(create(), collate(ROWS))
    assert isinstance(found, EpisodeCollector)
    signal = by_game(batch.advantages)
    informative = (signal != 0).any(axis=(1, 2))
    # All turns of a game have one advantage, wherever its prompt came from.
    assert (signal == signal[:, :, :1]).all()
    assert metrics["refills"] <= config.algorithm.max_refills
    assert informative.any()


@pytest.mark.parametrize("space", ["token", "latent"])
def test_returns_go_up(space):
    config = settings(space, epochs=1, steps=24, optimiser=OptimiserConfig(lr=1e-2))
    config = dataclasses.replace(
        config,
        algorithm=dataclasses.replace(config.algorithm, beta=0.0),
        rollout=dataclasses.replace(config.rollout, samples=16),
    )
    step, create = make(config)
    state, rewards = create(), []
    for _ in range(config.steps):
        state, metrics = step(state, collate(ROWS))
        rewards.append(metrics["reward_mean"])
    assert np.mean(rewards[-6:]) > np.mean(rewards[:6]) + 0.3


@pytest.mark.parametrize(
    ("act", "says"),
    [
        (lambda: settings("latent", epochs=1, overlap_scoring=True), "overlap_scoring with turns"),
        (lambda: dataclasses.replace(settings("latent"), turns=-1), "turns must be at least 0"),
        (lambda: make(dataclasses.replace(settings("latent"), turns=2)), "expected the environment's 3"),
    ],
)
def test_settings_that_cannot_be_played_are_refused(act, says):
    with pytest.raises(ValueError, match=says):
        act()


@pytest.mark.parametrize("shape", [(2, 1, 1), (3, 1, 1)])
def test_games_on_a_mesh_are_those_of_one_device(shape):
    """Eight games over two shards of the prompts, and over three, which a ninth of padding fills up."""
    config = settings("latent", epochs=1)
    mesh = make_mesh(shape)
    agent = tiny.agent()
    placed = jax.device_put(agent, shardings(agent.specs, mesh, TRAIN))
    one, create = make(config)
    two, create_there = make(config, agent=placed)
    first, second = (step.prepare(state, collate(ROWS)) for step, state in ((one, create()), (two, create_there())))
    real = N * G * K
    for name in ("tokens", "actions", "mask"):
        found, expected = (np.asarray(getattr(batch.rollout, name)) for batch, _ in (second, first))
        np.testing.assert_array_equal(found[:real], expected)
        assert len(found) % shape[0] == 0
    np.testing.assert_array_equal(np.asarray(second[0].advantages)[:real], np.asarray(first[0].advantages))
    assert not np.asarray(second[0].mask)[real:].any()
    for metric in ("reward_mean", "turns_mean", "length_mean", "ended", "prompt_tokens"):
        assert second[1][metric] == first[1][metric]
    after, found = apply(two, create_there(), second[0])
    before, expected = apply(one, create(), first[0])
    assert float(found["loss"]) == pytest.approx(float(expected["loss"]), abs=1e-6)
    gradients = gradient(two, after), gradient(one, before)
    for name, want in gradients[1].items():
        np.testing.assert_allclose(gradients[0][name], want, atol=1e-5, err_msg=name)


def test_a_mesh_that_would_divide_an_answer_is_refused():
    agent = tiny.agent()
    placed = jax.device_put(agent, shardings(agent.specs, make_mesh((1, 2, 1)), TRAIN))
    step, create = make(settings("latent"), agent=placed)
    with pytest.raises(ValueError, match="fsdp = 2"):
        step.prepare(create(), collate(ROWS))
