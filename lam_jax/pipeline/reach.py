"""How far the codes can move the answers: measured before RL is paid for, with a warning where they cannot."""

import dataclasses
import logging
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lam_jax.data.loader import in_order
from lam_jax.errors import IdleCodesError
from lam_jax.evaluation.best_of import best_of_curve
from lam_jax.evaluation.generate import Answer, Answered, score_answers
from lam_jax.evaluation.reach import Emissions, emissions
from lam_jax.evaluation.reach_settings import ReachSettings
from lam_jax.evaluation.scoring import Scored, paired_gain
from lam_jax.latent.agent import Agent
from lam_jax.parallel.multihost import is_first
from lam_jax.pipeline.measures import Evaluator, Record
from lam_jax.pipeline.phases import is_scored
from lam_jax.pipeline.resources import Resources
from lam_jax.recipe import PAIRED, TEXT_ONLY
from lam_jax.rollout.sampling import SamplingConfig
from lam_jax.tasks.task import Task
from lam_jax.train.spaces import Space

logger = logging.getLogger("lam_jax")
REACH = 404  # of the draws, beside those of `measures`


def measure_learned_reach(resources: Resources, agent: Agent) -> Record:
    """What the codes reach after stage 4: on held-out paired and text-only rows, and on each task's validation rows."""
    recipe = resources.recipe
    splits = {PAIRED: recipe.paired.held_out}
    if recipe.text_only is not None:
        splits[TEXT_ONLY] = recipe.text_only.held_out
    splits |= {task.name: task.val for task in recipe.tasks}
    found = [_reach(source, "stage4", _look(resources, source, split, agent)[0]) for source, split in splits.items()]
    return {"reach": [record for record in found if record is not None]}


def measure_reach(resources: Resources, task: Task, space: Space, agent: Agent) -> Record:
    """What an agent reaches after stage 5 on a task's validation rows, and what its answers to them score.

    Answers are drawn as in RL, and `policy` is their mean reward. In a space of codes there are also: `random`, answers
    whose codes are drawn uniformly; `oracle` and `backbone`, the tokens that are emitted along the reference, each
    after the reference's own past, under the inverse model's codes (which know the next token) and by the backbone
    alone.
    """
    settings = resources.recipe.evaluation.reach
    if settings is None:
        return {}
    found: Record = {}
    emitted = None
    if space.coded:
        emitted, examples = _look(resources, task.name, task.val, agent)
        if (record := _reach(task.name, "sft", emitted)) is not None:
            found["reach"] = record
        emitted = emitted, examples
    if is_scored(settings, task):
        found["scores"] = _scores(Evaluator(resources, task, space), settings, agent, "sft")
        if emitted is not None:
            found["scores"] |= _along_scores(Evaluator(resources, task, space), settings, *emitted)
    return found


def measure_reach_after_rl(resources: Resources, task: Task, space: Space, agent: Agent) -> Record:
    """What a reinforced agent's answers to a task's validation rows score, by its policy and under random codes."""
    settings = resources.recipe.evaluation.reach or ReachSettings()
    return {"scores": _scores(Evaluator(resources, task, space), settings, agent, "rl")}


def _reach(rows: str, after: str, emitted: Emissions) -> Record | None:
    """The figures of rows; None, and a warning, where no token of an answer is left in them."""
    if len(emitted.target):
        return {"rows": rows, "after": after, **emitted.figures()}
    if is_first():
        logger.warning(
            "%s: the rows that the reach of the codes would be measured on hold no token of an answer; they have none, "
            "or it was cut off. It is left out.",
            rows,
        )
    return None


def _look(resources: Resources, source: str, split: str, agent: Agent) -> tuple[Emissions, list[Any]]:
    """Emissions along the references of the first rows of a split, and the rows' examples, None in filled-up rows."""
    recipe = resources.recipe
    settings = recipe.evaluation.reach or ReachSettings()
    # Batches of the size that training's held-out batches have, so that they divide over the mesh as those do.
    size = recipe.evaluation.held_out
    collated = list(in_order(resources.first(source, split, settings.rows), resources.chats[source], size))
    examples: list[Any] = []
    for made in collated:
        examples += [*made.examples, *[None] * (len(made.batch.tokens) - len(made.examples))]
    return emissions(agent, [made.batch for made in collated], recipe.method.acting), examples


def _scores(evaluator: Evaluator, settings: ReachSettings, agent: Agent, after: str) -> Record:
    resources, task, space = evaluator.resources, evaluator.task, evaluator.space
    recipe = resources.recipe
    examples = resources.first(task.name, task.val, settings.prompts)
    drawn = recipe.rl.sampling[space.name]

    def answers(agent: Agent, sampling: SamplingConfig) -> list[Scored]:
        # The shape of RL's rollouts, whose program it is where the settings are the same.
        config = resources.rollout_config(task, settings.samples, sampling)
        answered = evaluator.answers(agent, examples, config, REACH, recipe.rl.prompts)
        return score_answers(answered, task.reward)

    policy = answers(agent, drawn)
    found: Record = {
        "task": task.name,
        "space": space.name,
        "after": after,
        "prompts": len({item.row for item in policy}),
        "samples": settings.samples,
        "policy": _mean(policy),
        "best_of": best_of_curve(policy, settings.samples),
    }
    if not space.coded:
        return found
    random = answers(_aimless(agent), SamplingConfig(repetition_penalty=drawn.repetition_penalty))
    found |= {"random": _mean(random), "random_best_of": best_of_curve(random, settings.samples)}
    if len(_usable(policy) & _usable(random)) > 1:
        lead = paired_gain(_by_reward(random), _by_reward(policy))
        found |= {"lead": lead.difference, "lead_se": lead.paired_se}
    return found


def _along_scores(evaluator: Evaluator, settings: ReachSettings, emitted: Emissions, rows: Sequence[Any]) -> Record:
    found = {}
    for name, inferred in (("oracle", True), ("backbone", False)) if len(emitted.target) else ():
        answered = _along(evaluator, emitted, rows, inferred, settings.prompts)
        found[name] = _mean(score_answers(answered, evaluator.task.reward))
    return found


def _aimless(agent: Agent) -> Agent:
    """The agent with a policy that gives every code the same logit."""
    policy = agent.latent.policy
    return agent.replace(
        latent=agent.latent.replace(policy=policy.replace(head=jax.tree.map(jnp.zeros_like, policy.head)))
    )


def _along(evaluator: Evaluator, found: Emissions, rows: Sequence[Any], inferred: bool, count: int) -> list[Answered]:
    """The texts of the first `count` rows that are emitted along their references, up to the first end of an answer."""
    resources = evaluator.resources
    ends = resources.config.eos_ids
    out = []
    for example, tokens in zip(rows, found.along(len(rows), inferred)):
        if example is None or len(out) == count:
            continue
        end = next((i for i, token in enumerate(tokens) if token in ends), len(tokens))
        text = resources.tokenizer.batch_decode([tokens[:end]], skip_special_tokens=True)[0]
        out.append(Answered(example, [Answer(text, tokens[: end + 1], [])]))
    return out


def _usable(scored: Sequence[Scored]) -> set[str]:
    return {item.row for item in scored if item.verdict.ok}


def _by_reward(scored: Sequence[Scored]) -> list[Scored]:
    """With one dimension, whose ratio is the reward itself: `paired_gain` compares means over dimensions."""
    return [dataclasses.replace(item, verdict=item.verdict.as_reward()) if item.verdict.ok else item for item in scored]


def _mean(scored: Sequence[Scored]) -> float | None:
    """Mean reward; None if every call failed."""
    rewards = [item.verdict.reward for item in scored if item.verdict.ok]
    return float(np.mean(rewards)) if rewards else None


def idle_lines(settings: ReachSettings, found: Record) -> list[str]:
    """What of the probe's figures after stage 5 lies under the recipe's thresholds, as sentences."""
    lines = []
    gain, scores = found.get("reach", {}).get("gain_over_backbone"), found.get("scores", {})
    if settings.least_gain is not None and gain is not None and gain < settings.least_gain:
        lines.append(
            f"the inferred codes raise log p of a reference token by {gain:.3f} nat over the backbone alone (least: "
            f"{settings.least_gain:g})"
        )
    lead = scores.get("lead")
    if settings.least_lead is not None and lead is not None and lead < settings.least_lead:
        error = f" +- {scores['lead_se']:.3f}" if math.isfinite(scores["lead_se"]) else ""
        lines.append(
            f"the policy's answers score {scores['policy']:.3f} and answers under random codes {scores['random']:.3f}, "
            f"a lead of {lead:.3f}{error} (least: {settings.least_lead:g})"
        )
    return lines


def require_reach(settings: ReachSettings | None, task: Task, found: Record) -> None:
    """Warns before RL where codes cannot move the answers, or stops if the recipe says so. All processes call it.

    Raises:
        IdleCodesError: a figure lies under its threshold, and `ReachSettings.stop` is set.
    """
    lines = [] if settings is None else idle_lines(settings, found)
    if settings is None or not lines:
        return
    message = (
        f"Task {task.name!r}, latent space: the codes hardly move the answers, so RL over codes has little to choose "
        f"from: {'; '.join(lines)}. Method.sft='learn' (--sft-recipe learn) lets the codes learn from the task's rows."
    )
    if settings.stop:
        raise IdleCodesError(f"{message} EvaluationSettings.reach.stop asks to stop here.")
    if is_first():
        logger.warning("%s", message)
