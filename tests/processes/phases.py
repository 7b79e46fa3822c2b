"""Every stage and RL of a tiny agent on a mesh of all devices, and what they need."""

import json
from pathlib import Path

import jax
import numpy as np

from lam_jax.data.collator import Collated, Cuts
from lam_jax.data.loader import Loader, LoaderConfig, Placed
from lam_jax.data.schemas import Example
from lam_jax.errors import PreemptedError
from lam_jax.hosts.consistency import code_hash, require_consistent, require_consistent_weights, versions
from lam_jax.latent.agent import Agent
from lam_jax.parallel import TRAIN, mesh_of, shardings
from lam_jax.parallel.choose_layout import choose_layout
from lam_jax.parallel.mesh import reshaped
from lam_jax.parallel.processes import whole_mesh
from lam_jax.parallel.rows import from_own_rows, own_rows
from lam_jax.pipeline.observe import observer
from lam_jax.rl import ALGORITHMS
from lam_jax.runs.run import Run
from lam_jax.runs.stop import StopRequest
from lam_jax.runs.watching import Watching
from lam_jax.train.loop import Phase, fit
from lam_jax.train.partition import merge, partition
from lam_jax.train.rl import RLStep
from lam_jax.train.rl_collect import Collector
from lam_jax.train.rl_config import RLConfig
from lam_jax.train.rl_held import hold_frozen
from lam_jax.train.rl_rewards import Decoder
from lam_jax.train.rl_update import Update
from lam_jax.train.spaces import SPACES
from lam_jax.train.stages import STAGES, Step
from lam_jax.train.state import TrainState
from tests.made_reward import as_reward
from tests.sharding import made
from tests.train.made_phase import StopAt

ROWS, STEPS, UPDATES = 8, 2, 2
EXAMPLE = Example("row", ({"role": "user", "content": "Say it."}, {"role": "assistant", "content": "It."}))


class Numbers:
    """A tokenizer whose words are the token numbers."""

    def batch_decode(self, group, skip_special_tokens):
        return [" ".join(str(int(token)) for token in row) for row in group]


@as_reward
def reward(examples, answers):
    """Share of even tokens; the number of calls shows that each process scores its own samples."""
    rewards = [[np.mean([int(word) % 2 == 0 for word in text.split()] or [0]) for text in group] for group in answers]
    return np.array(rewards), np.ones((len(answers), len(answers[0])), bool)


def stage_data(host, mesh) -> Placed:
    """Shuffled rows of a made-up batch; each process makes its own."""
    own = own_rows(mesh, TRAIN, ROWS)

    def collate(rows):
        return jax.tree.map(lambda x: x[np.asarray(rows)], host)

    loader = Loader(list(range(ROWS)), collate, LoaderConfig(ROWS, seed=2, rows=own))
    return Placed(loader, lambda local: from_own_rows(local, own, ROWS, mesh, TRAIN))


def prompt_data() -> Loader:
    host = jax.tree.map(np.asarray, made.PROMPTS)

    def collate(rows):
        return Collated(jax.tree.map(lambda x: x[np.asarray(rows)], host), (EXAMPLE,) * len(rows), Cuts())

    return Loader(list(range(made.N)), collate, LoaderConfig(made.N, seed=2))


def train(run: Run, phase: str, agent: Agent, mesh, stop: StopRequest | None, rollout_mesh=None):
    """One phase; the agent after it."""
    space = phase.removeprefix("rl_")
    trains = SPACES[space].trains if space in SPACES else STAGES[phase].trains
    trainable, frozen = partition(agent, trains(made.CONFIG, made.METHOD))

    def work():
        state = TrainState.create(trainable, made.optimiser(), jax.random.key(0))
        if space in SPACES:
            rollout = made.rollout_config(space)
            config = RLConfig(ALGORITHMS["grpo"], SPACES[space], STEPS, made.N, rollout, epochs=UPDATES)
            data = prompt_data()
            decode = Decoder(Numbers())
            observe = observer(run, phase, config, decode, made.CONFIG.eos_id)
            held = hold_frozen(frozen, SPACES[space], choose_layout(mesh), on=rollout_mesh)
            collect = Collector(
                *(config, made.METHOD, held.rollouts, reward, decode, data), observe=observe, mesh=mesh_of(frozen)
            )
            step = RLStep(collect, Update(config, made.METHOD, made.optimiser(), held.updates, trainable))
        else:
            data = stage_data(made.batch_of(phase), mesh)
            step = Step(STAGES[phase], frozen, made.optimiser(), made.METHOD)
        tools = run.tools(phase)
        tools.saver.stop = stop or tools.saver.stop
        fitted = fit(Phase(phase, STEPS), state, step, data, tools)
        return fitted.state.trainable, {}

    return merge(run.phase(phase, work, like=trainable).tree, frozen)


def main(folder: str, sizes: str, *phases: str) -> None:
    """`sizes` like "2x2x2", or "2x2x2/1x1x4x2" with those of the mesh of rollouts."""
    shapes = [tuple(int(size) for size in part.split("x")) for part in sizes.split("/")]
    mesh = whole_mesh(shapes[0])
    rollouts = reshaped(mesh, shapes[1]) if len(shapes) > 1 else None
    require_consistent({"code": code_hash(), "versions": versions()})
    agent = place_agent(mesh)
    require_consistent_weights(agent)
    with Run(Path(folder), {"test": "processes"}, save_every=1, watching=Watching(1, dump_rollouts=True)) as run:
        for phase in phases:
            name, _, visit = phase.partition(":")
            try:
                agent = train(run, name, agent, mesh, StopAt(int(visit)) if visit else None, rollouts)
            except PreemptedError as error:
                print(json.dumps({"stopped": str(error)}), flush=True)
                return


def place_agent(mesh) -> Agent:
    """The made-up weights, each process its shards."""
    where = shardings(Agent.spec(made.CONFIG, made.LATENT), mesh, TRAIN)

    def put(x, sharding):
        return jax.make_array_from_callback(x.shape, sharding, lambda index: x[index])

    return jax.tree.map(put, made.drawn(), where)
