"""Stages 5 and 6 of one task in one action space, as phases of a run (method.md section 3, method.md section 4)."""

from typing import Any

import jax
import numpy as np

from lam_jax.latent.agent import Agent
from lam_jax.pipeline.measures import Evaluator
from lam_jax.pipeline.resources import Resources
from lam_jax.pipeline.stages import train_stage
from lam_jax.runs.run import Run
from lam_jax.tasks.task import Task
from lam_jax.train.loop import fit
from lam_jax.train.method import Method
from lam_jax.train.optimiser import make_optimiser
from lam_jax.train.partition import count_parameters, merge, partition
from lam_jax.train.rl import Decoder, RLConfig, RLStep, Space
from lam_jax.train.stages import STAGES, Stage, latent_sft_loss, trainable_parts
from lam_jax.train.state import TrainState

SPEED = ("rollout_s", "update_s", "rl_step_s", "rollout_tokens_per_s", "update_tokens_per_s")


def fine_tune(run: Run, resources: Resources, task: Task, space: Space, agent: Agent) -> Agent:
    """Stage 5 on the task's rows."""
    recipe = resources.recipe
    held_out = resources.held_out(task.name, task.val)
    for name, parts, stage in _passes(space, recipe.method):
        batches, count = resources.batches(task.name, task.sft, recipe.sft.rows)
        steps = recipe.sft.steps_of(count)
        phase = f"{name}_{space}_{task.name}"
        optimiser = recipe.sft.optimiser
        agent = train_stage(run, recipe, phase, stage, parts, optimiser, steps, agent, batches, held_out)
    return agent


def _passes(space: Space, method: Method) -> list[tuple[str, str, Stage]]:
    if space == "token":
        return [("sft", "sft_token", STAGES["sft_token"])]
    if method.sft != "guided":
        return [("sft", "sft_latent", STAGES["sft_latent"])]

    def clone(agent, batch, noise, method):
        return latent_sft_loss(agent, batch, noise, method, part="clone")

    def predict(agent, batch, noise, method):
        return latent_sft_loss(agent, batch, noise, method, part="predict")

    return [("sft", "sft_latent", Stage(predict)), ("sft_clone", "cloning", Stage(clone))]


def rl_config(resources: Resources, task: Task, space: Space) -> RLConfig:
    """Settings of stage 6."""
    rl = resources.recipe.rl
    return RLConfig(
        algorithm=rl.algorithm_of(task.name),
        space=space,
        steps=rl.steps,
        prompts=rl.prompts,
        rollout=resources.rollout_config(task, rl.samples, rl.sampling[space]),
        epochs=rl.epochs,
        mini_batches=rl.mini_batches,
        optimiser=rl.optimisers[space],
        remat=rl.remat,
        update_lengths=rl.update_lengths,
    )


def reinforce(run: Run, resources: Resources, task: Task, space: Space, agent: Agent) -> tuple[Agent, dict[str, Any]]:
    """Stage 6 on the task's prompts; returns the agent, and median times of the later two thirds of the steps."""
    recipe, config = resources.recipe, rl_config(resources, task, space)
    trainable, frozen = partition(agent, trainable_parts(f"rl_{space}", agent.backbone.config, recipe.method))
    phase = f"rl_{space}_{task.name}"
    validation = resources.examples(task.name, task.val)[: config.prompts]
    evaluator = Evaluator(resources, task, space)

    def train() -> tuple[Any, dict[str, Any]]:
        optimiser = make_optimiser(config.optimiser, config.steps * config.updates)
        state = TrainState.create(trainable, optimiser, jax.random.key(recipe.seed))
        loader = resources.prompt_loader(task)
        decode = Decoder(resources.tokenizer)
        step = RLStep(config, recipe.method, frozen, trainable, optimiser, task.reward, decode, loader)

        def evaluate(state: TrainState) -> dict[str, Any]:
            return {"score": evaluator.mean_reward(merge(state.trainable, frozen), validation, config.rollout)}

        fitted = fit(
            phase,
            state,
            step,
            loader,
            config.steps,
            writer=run.metrics,
            progress=run.progress,
            evaluate=evaluate,
            evaluate_every=config.steps,
            saver=run.saver(phase),
            profiler=run.profiler,
        )
        record = {"best_step": fitted.best.step, "best_score": fitted.best.score} if fitted.best else {}
        warm = fitted.history[len(fitted.history) // 3 :]
        speed = {name: float(np.median([r[name] for r in warm if name in r])) for name in SPEED}
        return fitted.state.trainable, record | {"speed": speed | {"trainable_parameters": count_parameters(trainable)}}

    result = run.phase(phase, train, trainable)
    speed = dict(result.record["speed"])
    speed = {"task": task.name, "space": space, "step_s": speed.pop("rl_step_s"), **speed}
    return merge(result.tree, frozen), speed


def evaluate(run: Run, resources: Resources, task: Task, space: Space, agent: Agent, phase: str) -> dict[str, Any]:
    """Scores, diversity and sample answers after `phase` ("sft" or "rl"), as a JSON record."""
    evaluator = Evaluator(resources, task, space)
    return run.phase(f"scores_{phase}_{space}_{task.name}", lambda: (None, evaluator.measure(agent, phase))).record
