"""The first RL steps of a Qwen2.5-VL checkpoint in the latent action space, on one device or on a pod.

    python -m experiments.first_rl_step --out runs/first                                     # the shipped small model
    python -m experiments.first_rl_step --model /shared/qwen3b --mesh 2 8 1 --out runs/first # on every host of a v5e-16

The latent modules are new, so rewards mean nothing: it shows that loading, rollout, reward, update and checkpoints work
at that size. Prompts are those of the built-in data set's task `help`, scored by its rubric.
"""

import dataclasses
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
import tyro
from jax.sharding import Mesh

from lam_jax.cli import exit_code, is_expected
from lam_jax.cpu.host_memory import keep_host_memory
from lam_jax.data.chat import ChatEncoder
from lam_jax.data.collator import Collator, CollatorConfig
from lam_jax.data.loader import Loader, LoaderConfig
from lam_jax.demo.material import BASE_MODEL, RubricJudge
from lam_jax.formats.load_backbone import load_backbone
from lam_jax.hosts.compilation import keep_compiled_programs
from lam_jax.hosts.consistency import code_hash, files_hash, require_consistent, require_consistent_weights, versions
from lam_jax.latent.agent import Agent, init_latent
from lam_jax.latent.config import LatentConfig
from lam_jax.models.processor import ImageSettings
from lam_jax.models.tokenizer import read_tokenizer
from lam_jax.parallel import TRAIN
from lam_jax.parallel.multihost import barrier, is_first
from lam_jax.parallel.processes import start, whole_mesh
from lam_jax.rl import ALGORITHMS
from lam_jax.rollout.engine import RolloutConfig
from lam_jax.rollout.sampling import SamplingConfig
from lam_jax.runs.run import Run, fingerprint
from lam_jax.scenes.builder import SceneSizes, prepare, read_split
from lam_jax.train.compile_ahead import compile_ahead
from lam_jax.train.loop import Fitted, Phase, fit
from lam_jax.train.method import METHODS
from lam_jax.train.optimiser import OptimiserConfig, make_optimiser
from lam_jax.train.partition import partition
from lam_jax.train.rl import RLStep
from lam_jax.train.rl_collect import Collector
from lam_jax.train.rl_config import RLConfig
from lam_jax.train.rl_rewards import Decoder
from lam_jax.train.rl_update import Update
from lam_jax.train.spaces import LATENT
from lam_jax.train.state import TrainState


@dataclasses.dataclass(frozen=True)
class Settings:
    """What the result depends on.

    Attributes:
        model: folder of the backbone.
        steps: rollouts.
        prompts, samples, length: of each rollout; the length in tokens.
        prompt_lengths: buckets; a batch of prompts gets the smallest that holds its longest.
        update_lengths: buckets below `length` for the update; it gets the smallest that holds the longest completion.
        epochs, mini_batches: optimiser updates of each rollout.
        image: height and width to which pictures are scaled.
        latent: sizes of the new modules.
        seed: of everything random.
    """

    model: Path = BASE_MODEL
    steps: int = 2
    prompts: int = 4
    samples: int = 8
    prompt_lengths: tuple[int, ...] = (96,)
    length: int = 64
    update_lengths: tuple[int, ...] = (32,)
    epochs: int = 1
    mini_batches: int = 1
    image: tuple[int, int] = (84, 112)
    latent: LatentConfig = LatentConfig()
    seed: int = 0


@dataclasses.dataclass(frozen=True)
class FirstRLStep:
    """Runs a few RL steps; see the file's first lines."""

    out: Path
    """Run folder; every process must see it."""
    mesh: tuple[int, int, int] = (1, 1, 1)
    """data, fsdp, tensor: all devices of all processes."""
    save_every: int = 1
    """Updates between two checkpoints."""
    profile: bool = False
    """Trace three steps, from the third on."""
    settings: tyro.conf.OmitArgPrefixes[Settings] = Settings()


def rl_config(settings: Settings) -> RLConfig:
    """Latent GRPO."""
    rollout = RolloutConfig(settings.samples, settings.length, SamplingConfig())
    return RLConfig(
        ALGORITHMS["grpo"],
        LATENT,
        settings.steps,
        settings.prompts,
        rollout,
        settings.epochs,
        settings.mini_batches,
        OptimiserConfig(1e-6),
        remat=True,
        update_lengths=settings.update_lengths,
    )


def load(settings: Settings, mesh: Mesh) -> Agent:
    """The checkpoint with new latent modules, on the mesh."""
    backbone = load_backbone(settings.model, mesh, TRAIN)
    return init_latent(backbone, settings.latent, jax.random.key(settings.seed), mesh)


def train(run: Run, settings: Settings, agent: Agent, data: Path) -> Fitted:
    """The steps."""
    config, method = rl_config(settings), METHODS["default"]
    tokenizer = read_tokenizer(settings.model)
    encoder = ChatEncoder(tokenizer, agent.backbone.config)
    shape = CollatorConfig(
        settings.prompt_lengths, kind="prompt", padding="left", image=ImageSettings(size=settings.image)
    )
    rows, collate = read_split(data, "help", "rl"), Collator(encoder, shape)
    loader = Loader(rows, collate, LoaderConfig(settings.prompts, settings.seed))
    trainable, frozen = partition(agent, config.space.trains(agent.backbone.config, method))
    optimiser = make_optimiser(config.optimiser, config.steps * config.updates)
    state = TrainState.create(trainable, optimiser, jax.random.key(settings.seed))
    reward = RubricJudge("help").reward
    collect = Collector(config, method, frozen, reward, Decoder(tokenizer), loader)
    step = RLStep(collect, Update(config, method, optimiser, frozen, trainable))
    like = collate([rows[i] for i in range(settings.prompts)]).batch
    compile_ahead(step, state, like, settings.prompt_lengths, run.progress)
    return fit(Phase("first_rl_step", config.steps), state, step, loader, run.tools("first_rl_step"))


def main(command: FirstRLStep) -> list[dict[str, Any]]:
    """Runs or resumes; returns the logged records."""
    start()
    keep_compiled_programs()
    keep_host_memory()
    settings, mesh = command.settings, whole_mesh(command.mesh)
    require_consistent({"code": code_hash(), "versions": versions(), "configuration": fingerprint(settings)})
    profile = "first_rl_step" if command.profile else None
    with Run(command.out, settings, save_every=command.save_every, profile=profile) as run:
        sizes = SceneSizes(help={"sft": 1, "rl": 256, "val": 1, "ls1": 1, "ls2": 1})
        if is_first():
            prepare(run.folder / "data", sizes)
        barrier("data")
        data = prepare(run.folder / "data", sizes)
        require_consistent({"data": files_hash(data)})
        agent = load(settings, mesh)
        require_consistent_weights(agent)
        fitted = train(run, settings, agent, data)
        last = {name: value for name, value in fitted.history[-1].items() if isinstance(value, float)}
        run.progress.say(", ".join(f"{name} {value:.4g}" for name, value in last.items()))
        if not np.isfinite(last["loss"]):
            raise ValueError(f"the loss of the last step is {last['loss']}")
        return fitted.history


if __name__ == "__main__":
    try:
        main(tyro.cli(FirstRLStep, description=__doc__))
    except Exception as error:
        if not is_expected(error):
            raise
        print(f"first_rl_step: {error}", file=sys.stderr)
        sys.exit(exit_code(error))
