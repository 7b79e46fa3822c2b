"""What is measured between the stages: codes after stages 4 and 5, scores and sample answers after stages 5 and 6."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from lam_jax.data.loader import in_order
from lam_jax.data.schemas import Example
from lam_jax.errors import NoUsableRewardError
from lam_jax.evaluation.codes import probe_codes
from lam_jax.evaluation.episodes import play_answers
from lam_jax.evaluation.generate import Answered, answer_diversity, generate, mean_length, score_answers
from lam_jax.evaluation.scoring import Scored, paired_gain, summarise
from lam_jax.latent.agent import Agent
from lam_jax.pipeline.resources import Resources
from lam_jax.recipe import PAIRED, TEXT_ONLY, AnswerSet
from lam_jax.rewards.embedding import is_lexical, load_embedder
from lam_jax.rewards.verdict import Verdict
from lam_jax.rollout.engine import RolloutConfig
from lam_jax.rollout.run import prepared
from lam_jax.tasks.episodes import EpisodeTask
from lam_jax.tasks.task import Task
from lam_jax.train.rl_failures import Failures
from lam_jax.train.spaces import Space

Record = dict[str, Any]
# Of the draws of validation, of scores and of the fixed prompts, so that they do not share noise.
VALIDATION, SCORES, FIXED = 101, 202, 303


def measure_codes(resources: Resources, agent: Agent) -> Record:
    """Codebook health and the causal test after stage 4, for image-text and text-only rows."""
    recipe = resources.recipe
    reading, key = recipe.method.acting, jax.random.key(recipe.seed)
    corpora = {"image_text": (PAIRED, recipe.paired)}
    if recipe.text_only is not None:
        corpora["text_only"] = (TEXT_ONLY, recipe.text_only)
    found = {}
    for name, (source, corpus) in corpora.items():
        examples = resources.examples(source, corpus.held_out)
        collated = in_order(examples, resources.chats[source], recipe.evaluation.held_out)
        found[name] = probe_codes(agent, [c.batch for c in collated], key, reading)
    usage = {f"usage{'' if name == 'image_text' else '_' + name}": f.pop("usage") for name, f in found.items()}
    paired = found["image_text"]
    return {
        **usage,
        "random_action_kl_after_stage4": min(f["random_action_kl"] for f in found.values()),
        "cloning_accuracy": paired["cloning_accuracy"],
        "majority_share": paired["top_share"],
        **found,
    }


def measure_control(resources: Resources, task: Task, agent: Agent) -> Record:
    """The causal test on the answers of a task's validation rows."""
    recipe = resources.recipe
    examples = resources.examples(task.name, task.val)
    collated = in_order(examples, resources.chats[task.name], recipe.evaluation.held_out)
    batches = [c.batch.replace(valid=c.batch.valid & c.batch.response) for c in collated]
    found = probe_codes(agent, batches, jax.random.key(recipe.seed), recipe.method.acting)
    return {"random_action_kl": found["random_action_kl"]}


@dataclasses.dataclass(frozen=True)
class Evaluator:
    """Answers and scores of one task in one action space.

    Attributes:
        resources: the opened recipe.
        task, space: which.
    """

    resources: Resources
    task: Task
    space: Space

    def answers(
        self, agent: Agent, examples: Sequence[Example], config: RolloutConfig, salt: int, batch: int
    ) -> list[Answered]:
        """Answers to examples, in order."""
        resources = self.resources
        key = jax.random.fold_in(jax.random.key(resources.recipe.seed), salt)
        space = prepared(self.space.actions(agent, resources.recipe.method), resources.rollout_mesh)
        prompts = resources.prompts[self.task.name]
        if isinstance(self.task, EpisodeTask):
            return play_answers(space, self.task.game, examples, prompts, resources.tokenizer, config, key, batch)
        return generate(space, examples, prompts, resources.tokenizer, config, key, batch)

    def mean_reward(self, agent: Agent, examples: Sequence[Example], config: RolloutConfig) -> float:
        """Mean reward on validation prompts.

        Raises:
            NoUsableRewardError: every call failed.
        """
        answered = self.answers(agent, examples, config, VALIDATION, self.resources.recipe.rl.prompts)
        scored = score_answers(answered, self.task.reward)
        self._require_usable(scored, "the validation", 1)
        return float(np.mean([item.verdict.reward for item in scored if item.verdict.ok]))

    def _require_usable(self, scored: Sequence[Scored], what: str, least: int) -> None:
        """Stops where fewer prompts have a score than a number can be made of."""
        prompts = {item.row for item in scored}
        usable = {item.row for item in scored if item.verdict.ok}
        if len(usable) >= min(least, len(prompts)):
            return
        found = Failures.of([item.verdict for item in scored])
        raise NoUsableRewardError(
            f"Task {self.task.name!r}: {found.usable or 'none'} of the {found.calls} reward calls of {what} could be "
            f"used. The commonest reasons:\n{found}\nCorrect the reward's settings and run the same command again; "
            "what the run had done is kept."
        )

    def measure(self, agent: Agent, phase: str) -> Record:
        """Scores, diversity and sample answers after `phase` ("sft" or "rl").

        Raises:
            NoUsableRewardError: every call of a test failed, or nearly every one on the fixed training prompts.
        """
        settings, task = self.resources.recipe.evaluation, self.task
        examples = {
            key: list(self.resources.examples(task.name, scored.split)[: settings.prompts])
            for key, scored in task.tests.items()
        }
        rows: list[Record] = []
        by_prompt: list[Record] = []
        shown: dict[str, list[Record]] = {}
        checked: list[bool] = []
        for number, answer_set in enumerate(settings.answers):
            together = [example for part in examples.values() for example in part]
            sampling = answer_set.sampling[self.space.name]
            config = self.resources.rollout_config(task, answer_set.samples, sampling)
            answers = self.answers(agent, together, config, SCORES, settings.batch)
            by_row = {id(item.example): item for item in answers}  # skipped rows have none
            for key, part in examples.items():
                answered = [by_row[id(example)] for example in part if id(example) in by_row]
                scored = score_answers(answered, task.examiner)
                self._require_usable(scored, f"the scores of {key!r} after {phase}", 1)
                row = self._scores(answered, scored, phase, key, answer_set)
                rows.append(row | ({"skipped": left} if (left := len(part) - len(answered)) else {}))
                named = {key: row[key] for key in ("split", "temperature", "samples")}
                by_prompt.append(named | {"scores": scores_by_prompt(scored, answer_set.samples)})
                if number == 0:
                    first = [item.verdict for item in scored if item.sample == 0]
                    pairs = list(zip(answered, first, strict=True))
                    shown[key] = [self._sample(item, verdict) for item, verdict in pairs[: settings.shown]]
                    if task.check is not None:
                        checked += [task.check(answer.text) for item in answered for answer in item.answers]
        fluency = {"share": float(np.mean(checked)), "checked": len(checked)} if checked else None
        found = {"scores": rows, "answers": shown, "fluency": fluency, "fixed": self._fixed(agent)}
        return found | {"by_prompt": by_prompt}

    def _scores(
        self, answered: Sequence[Answered], scored: Sequence[Scored], phase: str, split: str, answer_set: AnswerSet
    ) -> Record:
        summary = summarise(scored)
        embedder = self.resources.recipe.evaluation.embedder
        spread, distinct = answer_diversity(answered, load_embedder(embedder))
        lexical = "lexical_" if is_lexical(embedder) else ""
        return {
            "task": self.task.name,
            "space": self.space.name,
            "phase": phase,
            "split": split,
            "temperature": answer_set.sampling[self.space.name].temperature,
            "prompts": summary.prompts,
            **({"failed": summary.failed} if summary.failed else {}),
            "samples": answer_set.samples,
            **dataclasses.asdict(summary.score),
            "dimensions": {n: dataclasses.asdict(e) for n, e in summary.dimensions.items()},
            f"{lexical}diversity": spread.diversity,
            f"{lexical}diversity_reciprocal_mean": spread.reciprocal_mean,
            "distinct": distinct,
            "length": mean_length(answered),
        }

    def _fixed(self, agent: Agent) -> dict[str, list[float]]:
        """Rewards on the fixed training prompts, by row; failed calls are left out."""
        recipe, task = self.resources.recipe, self.task
        examples = self.resources.examples(task.name, task.rl)[: recipe.evaluation.gain_prompts]
        sampling = recipe.rl.sampling[self.space.name].answering()
        config = self.resources.rollout_config(task, recipe.evaluation.gain_samples, sampling)
        answered = self.answers(agent, examples, config, FIXED, recipe.evaluation.batch)
        rewards: dict[str, list[float]] = {}
        scored = score_answers(answered, task.reward)
        self._require_usable(scored, "the fixed training prompts", 2)  # a gain has an error from two on
        for item in scored:
            if item.verdict.ok:
                rewards.setdefault(item.row, []).append(item.verdict.reward)
        return rewards

    def _sample(self, item: Answered, verdict: Verdict) -> Record:
        """The first answer to a prompt, with its verdict, tokens and codes."""
        answer = item.answers[0]
        # Special tokens, the end-of-turn token among them, are no part of the text and are left out with their codes.
        decode = self.resources.tokenizer.decode
        pieces = [decode([token], skip_special_tokens=True) for token in answer.tokens]
        kept = [(piece, action) for piece, action in zip(pieces, answer.actions, strict=True) if piece]
        return {
            "id": item.example.id,
            "space": self.space.name,
            "text": answer.text,
            "tokens": [piece for piece, _ in kept],
            "actions": [action for _, action in kept] if self.space.coded else None,
            "score": verdict.reward if verdict.ok else None,
            "dimensions": dict(verdict.named) if verdict.ok else {},
        }


def scores_by_prompt(scored: Sequence[Scored], samples: int) -> dict[str, list[float | None]]:
    """The score of each sample of each row, six digits; None for a failed call. Paired comparisons are made of it."""
    found: dict[str, list[float | None]] = {}
    for item in scored:
        row = found.setdefault(item.row, [None] * samples)
        if item.verdict.ok:
            row[item.sample] = float(f"{item.verdict.mean_ratio:.6g}")
    return found


def gain(before: dict[str, list[float]], after: dict[str, list[float]]) -> Record | None:
    """RL's gain on the fixed training prompts, with its paired standard error; None if fewer than two have both."""
    if len(before.keys() & after.keys()) < 2:
        return None

    def scored(rewards: dict[str, list[float]]) -> list[Scored]:
        # One dimension whose reference scores 1: its ratio is the reward itself.
        return [
            Scored(row, i, Verdict({"reward": (value, 1.0)}))
            for row, values in rewards.items()
            for i, value in enumerate(values)
        ]

    found = dataclasses.asdict(paired_gain(scored(before), scored(after)))
    found.pop("unpaired")
    return found
