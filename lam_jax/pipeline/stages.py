"""One of stages 1 to 5 as a phase of a run, and stages 1 to 4 in a row (method.md section 3)."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax

from lam_jax.data.loader import Placed, Together
from lam_jax.errors import CodebookCollapseError
from lam_jax.evaluation.codes import probe_codes
from lam_jax.latent.agent import Agent
from lam_jax.models.inputs import Batch
from lam_jax.parallel.parked import discard, is_used_up, rest
from lam_jax.pipeline.phases import STAGE_PHASES
from lam_jax.pipeline.resources import Resources
from lam_jax.recipe import PAIRED, TEXT_ONLY, Recipe, StageSettings, Weights
from lam_jax.runs.run import Run
from lam_jax.train.loop import Fitted, Phase, fit
from lam_jax.train.method import Method
from lam_jax.train.optimiser import make_optimiser
from lam_jax.train.partition import merge, partition
from lam_jax.train.stages import MixedBatch, Stage, Step
from lam_jax.train.state import TrainState


def learn_actions(run: Run, resources: Resources, agent: Agent) -> Agent:
    """Stages 1 to 4: a latent action space and a policy, from rows without action labels.

    Each stage is checkpointed, and skipped when it is done already.

    Raises:
        CodebookCollapseError: too few codes are in use on held-out rows after stage 1 or 3.
    """
    recipe, method = resources.recipe, resources.recipe.method
    paired = resources.held_out(PAIRED, recipe.paired.held_out)
    text = recipe.text_only if method.text_only else None
    held_out = MixedBatch(paired, resources.held_out(TEXT_ONLY, text.held_out) if text else None)

    def shown(rows: int) -> tuple[Placed, int]:
        return resources.batches(PAIRED, recipe.paired.train, rows)

    def mixed(rows: int) -> tuple[Placed, int]:
        own, count = shown(rows)
        if text is None:
            return Placed(own, lambda batch: MixedBatch(batch, None)), count
        others, _ = resources.batches(TEXT_ONLY, text.train, rows)
        return Placed(Together(own, others), lambda two: MixedBatch(*two)), count

    for phase, stage in STAGE_PHASES.items():
        settings: StageSettings = getattr(recipe, stage.name)
        rows = (mixed if stage.mixed else shown)(settings.rows)
        validation = held_out if stage.mixed else paired
        agent = train_stage(run, recipe, phase, stage, settings, agent, rows, validation, skipped_of(resources))
        if stage.name in ("inverse", "joint"):
            _require_codes(recipe, agent, paired, method, phase)
    return agent


def train_stage(
    run: Run,
    recipe: Recipe,
    phase: str,
    stage: Stage,
    settings: StageSettings,
    agent: Agent,
    rows: tuple[Iterator[Any], int],
    validation: Any,
    skipped: Callable[[], Mapping[str, Any]] | None = None,
    shared: bool = False,
) -> Agent:
    """The agent after a phase that trains what `stage` does.

    Where the compute dtype is not the weights' own, `agent` is used up: its frozen weights wait on the host meanwhile,
    and those that train are deleted once the state has its copy.

    Args:
        run, recipe: where, and what else the phase depends on.
        phase: name of the phase.
        stage: what is optimised.
        settings: for how long, by which optimiser.
        agent: before it.
        rows: batches, and the number of rows that they are made of.
        validation: batch on which the loss is measured on the way.
        skipped: metrics of the bad rows that were replaced in a step's batch; None: none are skipped.
        shared: as of `Run.phase`.
    """
    method, (batches, count) = recipe.method, rows
    steps = settings.steps_of(count)
    trainable, frozen = partition(agent, stage.trains(agent.backbone.config, method))
    structs, used_up = structs_of(trainable), is_used_up(agent, agent.backbone.config.dtype)
    if used_up:
        discard(agent, (trainable, frozen))  # of which some rows train
    resting, wake = rest(frozen, agent.backbone.config.dtype)

    def train() -> tuple[Any, dict[str, Any]]:
        optimiser = make_optimiser(settings.optimiser, steps)
        state = TrainState.create(trainable, optimiser, jax.random.key(recipe.seed))
        if used_up:
            discard(trainable)
        parts = settings.micro_batches, settings.accumulation
        step = Step(stage, resting, optimiser, method, None, *parts, steps=steps)

        def evaluate(state: TrainState) -> dict[str, Any]:
            metrics = step.held_out(state.trainable, validation)
            return {"score": -metrics["loss"], **metrics}

        every = max(1, steps // 3)
        plan = Phase(phase, steps, evaluate=evaluate, evaluate_every=every, keep_best=settings.weights == "best")

        def counted(state: TrainState, batch: Any) -> tuple[TrainState, Mapping[str, Any]]:
            state, metrics = step(state, batch)
            return state, {**metrics, **(skipped() if skipped else {})}

        fitted = fit(plan, state, counted if skipped else step, batches, run.tools(phase))
        return chosen_weights(fitted, settings.weights), best_record(fitted)

    result = run.phase(phase, train, structs, shared)
    discard(resting, frozen)
    return merge(result.tree, wake())


def structs_of(tree: Any) -> Any:
    """Shapes, dtypes and shardings of arrays."""
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), tree)


def skipped_of(resources: Resources) -> Callable[[], Mapping[str, Any]] | None:
    """Metrics of skipped rows, where the recipe skips them."""
    return resources.skipped.of_step if resources.recipe.bad_rows == "skip" else None


def chosen_weights(fitted: Fitted, weights: Weights) -> Any:
    """The weights that a phase hands on."""
    kept = fitted.best.trainable if weights == "best" and fitted.best else None
    return fitted.state.trainable if kept is None else kept


def best_record(fitted: Fitted) -> dict[str, Any]:
    """Where the highest score on validation was, as JSON values."""
    return {"best_step": fitted.best.step, "best_score": fitted.best.score} if fitted.best else {}


def _require_codes(recipe: Recipe, agent: Agent, batch: Batch, method: Method, phase: str) -> None:
    least = recipe.evaluation.least_used_share
    probe = probe_codes(agent, [batch], jax.random.key(0), method.learning)
    if probe["used_share"] < least:
        codes = agent.latent.config.codes
        raise CodebookCollapseError(
            f"After {phase} only {codes - probe['dead_codes']} of {codes} codes are in use on held-out rows, less than "
            f"{least:.0%}. Lower the stage's learning rate or raise Method.entropy_weight, and run again."
        )
