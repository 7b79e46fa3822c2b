"""Stages 1 to 4 of the demo: a latent action space and a policy from unlabelled rows."""

from collections.abc import Callable, Iterator
from typing import Any

import jax

from lam_jax.data.loader import Placed, Together
from lam_jax.demo.material import Material
from lam_jax.demo.settings import StageSettings
from lam_jax.errors import CodebookCollapseError
from lam_jax.evaluation.codes import probe_codes
from lam_jax.latent.agent import Agent
from lam_jax.models.inputs import Batch
from lam_jax.runs.run import Run
from lam_jax.train.loop import Fitted, Phase, fit
from lam_jax.train.method import Method
from lam_jax.train.optimiser import make_optimiser
from lam_jax.train.partition import merge, partition
from lam_jax.train.stages import STAGES, MixedBatch, Stage, Step
from lam_jax.train.state import TrainState

LEAST_USED_SHARE = 0.1  # below it the codebook counts as collapsed


def learn_latent_actions(run: Run, material: Material, agent: Agent) -> Agent:
    """Runs stages 1 to 4; each is checkpointed and skipped when it is done already."""
    config, method = material.config, material.config.method
    held_out = MixedBatch(
        material.held_out("paired", "test", 32),
        material.held_out("text_only", "test", 32) if method.text_only else None,
    )

    def shown(rows: int) -> Placed:
        return material.batches("paired", "train", rows)

    def mixed(rows: int) -> Placed:
        if not method.text_only:
            return Placed(shown(rows), lambda batch: MixedBatch(batch, None))
        return Placed(Together(shown(rows), material.batches("text_only", "train", rows)), lambda two: MixedBatch(*two))

    plans: list[tuple[str, str, StageSettings, Callable[[int], Placed], Any]] = [
        ("stage1_inverse", "inverse", config.inverse, shown, held_out.paired),
        ("stage2_projector", "projector", config.projector, shown, held_out.paired),
        ("stage3_joint", "joint", config.joint, mixed, held_out),
        ("stage4_cloning", "cloning", config.cloning, mixed, held_out),
    ]
    for phase, stage, settings, make_batches, validation in plans:
        batches = make_batches(settings.rows)
        agent = train_stage(run, phase, STAGES[stage], settings, agent, batches, validation, method, config.seed)
        if stage in ("inverse", "joint"):
            _require_codes(run, agent, held_out.paired, method, phase)
    return agent


def train_stage(
    run: Run,
    phase: str,
    stage: Stage,
    settings: StageSettings,
    agent: Agent,
    batches: Iterator[Any],
    validation: Any,
    method: Method,
    seed: int,
) -> Agent:
    """Trains by one of stages 1 to 5, and returns the agent with the last weights."""
    trainable, frozen = partition(agent, stage.trains(agent.backbone.config, method))

    def train() -> tuple[Any, dict[str, Any]]:
        optimiser = make_optimiser(settings.optimiser, settings.steps)
        state = TrainState.create(trainable, optimiser, jax.random.key(seed))
        step = Step(stage, frozen, optimiser, method)

        def evaluate(state: TrainState) -> dict[str, Any]:
            metrics = step.held_out(state.trainable, validation)
            return {"score": -metrics["loss"], **metrics}

        plan = Phase(phase, settings.steps, evaluate=evaluate, evaluate_every=max(1, settings.steps // 3))
        fitted = fit(plan, state, step, batches, run.tools(phase))
        return fitted.state.trainable, best_record(fitted)

    return merge(run.phase(phase, train, trainable).tree, frozen)


def best_record(fitted: Fitted) -> dict[str, Any]:
    """Where the highest score on validation was, as JSON values."""
    return {"best_step": fitted.best.step, "best_score": fitted.best.score} if fitted.best else {}


def _require_codes(run: Run, agent: Agent, batch: Batch, method: Method, phase: str) -> None:
    probe = probe_codes(agent, [batch], jax.random.key(0), method.learning)
    if probe["used_share"] < LEAST_USED_SHARE:
        codes = agent.latent.config.codes
        raise CodebookCollapseError(
            f"After {phase} only {codes - probe['dead_codes']} of {codes} codes are in use on held-out rows, less than "
            f"{LEAST_USED_SHARE:.0%}. Lower the stage's learning rate or raise Method.entropy_weight, and run again."
        )
