"""Stages 5 and 6 of one task in one action space, as phases of a run (method.md section 3, method.md section 4)."""

import dataclasses
from typing import Any

import jax
import numpy as np

from lam_jax.data.collator import Collated
from lam_jax.data.loader import Peekable
from lam_jax.latent.agent import Agent
from lam_jax.parallel.choose_layout import choose_layout
from lam_jax.parallel.parked import Parking, discard, is_used_up
from lam_jax.pipeline.costs import PromptSize, played, rl_cost, step_flops
from lam_jax.pipeline.measures import Evaluator
from lam_jax.pipeline.observe import observer
from lam_jax.pipeline.phases import rl_phase, scores_phase, sft_phases
from lam_jax.pipeline.resources import Resources
from lam_jax.pipeline.skipped import SkipLog, totals_of
from lam_jax.pipeline.stages import best_record, chosen_weights, skipped_of, structs_of, train_stage
from lam_jax.runs.run import Run
from lam_jax.tasks.episodes import EpisodeTask
from lam_jax.tasks.task import Task
from lam_jax.train.compile_ahead import compile_ahead
from lam_jax.train.loop import Phase, fit
from lam_jax.train.optimiser import make_optimiser
from lam_jax.train.partition import count_parameters, merge, partition
from lam_jax.train.rl import RLStep
from lam_jax.train.rl_batch import RLBatch
from lam_jax.train.rl_collect import Collector
from lam_jax.train.rl_config import RLConfig
from lam_jax.train.rl_episodes import EpisodeCollector
from lam_jax.train.rl_held import hold_frozen, hold_reference
from lam_jax.train.rl_rewards import Decoder
from lam_jax.train.rl_update import Update
from lam_jax.train.spaces import Space
from lam_jax.train.state import TrainState

SPEED = ("rollout_s", "update_s", "rl_step_s", "rollout_tokens_per_s", "update_tokens_per_s")


def fine_tune(run: Run, resources: Resources, task: Task, space: Space, agent: Agent) -> Agent:
    """Stage 5 on the task's rows."""
    recipe = resources.recipe
    held_out = resources.held_out(task.name, task.val)
    for phase, stage in sft_phases(task.name, space, recipe.method).items():
        rows = resources.batches(task.name, task.sft, recipe.sft.rows)
        agent = train_stage(run, recipe, phase, stage, recipe.sft, agent, rows, held_out, skipped_of(resources), True)
    return agent


def rl_config(resources: Resources, task: Task, space: Space) -> RLConfig:
    """Settings of stage 6."""
    rl = resources.recipe.rl
    return RLConfig(
        algorithm=rl.algorithm_of(task.name),
        space=space,
        steps=rl.steps,
        prompts=rl.prompts,
        rollout=dataclasses.replace(
            resources.rollout_config(task, rl.samples, rl.sampling[space.name]), weights=rl.rollout_weights
        ),
        epochs=rl.epochs,
        mini_batches=rl.mini_batches,
        micro_batches=rl.micro_batches,
        optimiser=rl.optimisers[space.name],
        remat=rl.remat,
        update_lengths=rl.update_lengths,
        max_failed_steps=rl.max_failed_steps,
        least_usable=rl.least_usable,
        overlap_scoring=rl.overlap_scoring,
        turns=task.game.turns if isinstance(task, EpisodeTask) else 0,
    )


class _CountingStep(RLStep):
    """With the metrics of the bad rows that others took the place of, among a step's prompts and refills."""

    def __init__(self, collect: Collector, update: Update, skipped: SkipLog):
        super().__init__(collect, update)
        self.skipped = skipped

    def prepare(self, state: TrainState, prompts: Collated) -> tuple[RLBatch, dict[str, Any]]:
        self.skipped.recent = list(prompts.skipped)
        batch, metrics = super().prepare(state, prompts)
        return batch, metrics | totals_of(self.skipped.recent)


def reinforce(run: Run, resources: Resources, task: Task, space: Space, agent: Agent) -> tuple[Agent, dict[str, Any]]:
    """Stage 6 on the task's prompts; returns the agent, and median times of the later two thirds of the steps.

    `agent` is used up as by `train_stage`, what trains of it too.
    """
    recipe, config = resources.recipe, rl_config(resources, task, space)
    trainable, frozen = partition(agent, space.trains(agent.backbone.config, recipe.method))
    structs, used_up, parking = structs_of(trainable), is_used_up(agent, agent.backbone.config.dtype), Parking(frozen)
    if used_up:
        discard(agent, (trainable, frozen))  # of which some rows train
    release = parking.park if used_up else None
    held = hold_frozen(frozen, space, choose_layout(resources.mesh), release, resources.rollout_mesh)
    phase = rl_phase(task.name, space)
    validation = resources.first(task.name, task.val, config.prompts)
    evaluator = Evaluator(resources, task, space)

    def train() -> tuple[Any, dict[str, Any]]:
        optimiser = make_optimiser(config.optimiser, config.steps * config.updates)
        state = TrainState.create(trainable, optimiser, jax.random.key(recipe.seed))
        reference = hold_reference(trainable, config.algorithm)
        if used_up:
            discard(trainable)
        loader = Peekable(resources.prompt_loader(task))
        ends = agent.backbone.config.eos_ids
        decode = Decoder(resources.tokenizer, ends)
        observe = observer(run, phase, config, decode, ends)
        ahead = loader.peek if config.overlap_scoring else None
        if isinstance(task, EpisodeTask):
            made = resources.rl_prompts[task.name]
            collect: Collector = EpisodeCollector(
                *(config, recipe.method, held.rollouts, task.game, task.reward, decode, loader, made),
                observe=observe,
                mesh=resources.mesh,
            )
        else:
            collect = Collector(
                *(config, recipe.method, held.rollouts, task.reward, decode, loader),
                observe=observe,
                ahead=ahead,
                mesh=resources.mesh,
            )
        update = Update(config, recipe.method, optimiser, held.updates, reference)
        skips = recipe.bad_rows == "skip"
        step = _CountingStep(collect, update, resources.skipped) if skips else RLStep(collect, update)
        if not config.turns and (len(task.prompt_lengths) > 1 or len(config.update_buckets) > 1):
            like = next(resources.prompt_loader(task)).batch
            compile_ahead(step, state, like, task.prompt_lengths, run.progress)

        def evaluate(state: TrainState) -> dict[str, Any]:
            collect.settle()
            return {"score": evaluator.mean_reward(collect.agent(state), validation, config.rollout.answering())}

        every, keep_best = recipe.rl.validate_every or config.steps, recipe.rl.weights == "best"
        plan = Phase(phase, config.steps, evaluate=evaluate, evaluate_every=every, keep_best=keep_best)
        fitted = fit(plan, state, step, loader, run.tools(phase))
        warm = fitted.history[len(fitted.history) // 3 :]
        times = {name: [r[name] for r in warm if name in r] for name in SPEED}
        speed = {name: float(np.median(found)) if found else None for name, found in times.items()}
        size, turns = PromptSize.of(resources.rl_prompts[task.name](validation).batch), 0.0
        if config.turns:
            size, turns = played(size, fitted.history)
        flops = step_flops(agent.backbone.config, recipe.latent, recipe.method, config, size, turns)
        return chosen_weights(fitted, recipe.rl.weights), best_record(fitted) | {
            "speed": speed | {"trainable_parameters": count_parameters(structs)},
            "cost": rl_cost(fitted.history, config, flops),
        }

    result = run.phase(phase, train, structs)
    discard(held, frozen)
    speed = dict(result.record["speed"])
    speed = {"task": task.name, "space": space.name, "step_s": speed.pop("rl_step_s"), **speed}
    return merge(result.tree, parking.wake()), speed


def evaluate(run: Run, resources: Resources, task: Task, space: Space, agent: Agent, phase: str) -> dict[str, Any]:
    """Scores, diversity and sample answers after `phase` ("sft" or "rl"), as a JSON record."""
    evaluator = Evaluator(resources, task, space)
    return run.phase(scores_phase(phase, task.name, space), lambda: (None, evaluator.measure(agent, phase))).record
