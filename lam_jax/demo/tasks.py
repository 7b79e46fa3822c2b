"""Stages 5 and 6 of the demo, and the scores after each, for one task in one action space."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from lam_jax.data.schemas import Example
from lam_jax.demo.latent import best_record, train_stage
from lam_jax.demo.material import Material, RubricJudge
from lam_jax.demo.settings import TASK_SPLITS
from lam_jax.evaluation.generate import Answered, answer_diversity, generate, judge_all, mean_length
from lam_jax.evaluation.scoring import Scored, paired_gain, summarise
from lam_jax.latent.agent import Agent
from lam_jax.rewards.embedding import load_embedder
from lam_jax.rewards.verdict import Verdict
from lam_jax.rl import ALGORITHMS
from lam_jax.rollout.engine import RolloutConfig
from lam_jax.runs.run import Run
from lam_jax.scenes.grammar import is_fluent
from lam_jax.train.loop import Phase, fit
from lam_jax.train.optimiser import make_optimiser
from lam_jax.train.partition import count_parameters, merge, partition
from lam_jax.train.rl import RLStep
from lam_jax.train.rl_collect import Collector
from lam_jax.train.rl_config import RLConfig
from lam_jax.train.rl_rewards import Decoder
from lam_jax.train.rl_update import Update
from lam_jax.train.spaces import SPACES
from lam_jax.train.state import TrainState

SCORE_BATCH = 64  # prompts that are answered at a time


@dataclasses.dataclass
class TaskRun:
    """One task in one action space.

    Attributes:
        run, material: where it runs and what on.
        task, space: which.
        agent: as far as trained.
    """

    run: Run
    material: Material
    task: str
    space: str
    agent: Agent

    def __post_init__(self):
        self.judge = RubricJudge(self.task)

    def fine_tune(self) -> None:
        """Stage 5."""
        config = self.material.config
        held_out = self.material.held_out(self.task, "val", 32)
        for name, stage in SPACES[self.space].sft(config.method).items():
            phase = f"{name}_{self.space}_{self.task}"
            batches = self.material.batches(self.task, "sft", config.sft.rows)
            self.agent = train_stage(
                self.run, phase, stage, config.sft, self.agent, batches, held_out, config.method, config.seed
            )

    def reinforce(self) -> None:
        """Stage 6."""
        config, method = self.material.config, self.material.config.method
        settings = self.rl_config()
        trainable, frozen = partition(self.agent, settings.space.trains(self.agent.backbone.config, method))
        phase = f"rl_{self.space}_{self.task}"
        validation = self.material.examples(self.task, "val")[: config.rl_prompts]

        def train() -> tuple[Any, dict[str, Any]]:
            optimiser = make_optimiser(settings.optimiser, settings.steps * settings.updates)
            state = TrainState.create(trainable, optimiser, jax.random.key(config.seed))
            loader = self.material.prompt_loader(self.task)
            decode = Decoder(self.material.tokenizer)
            collect = Collector(settings, method, frozen, self.judge.reward, decode, loader)
            step = RLStep(collect, Update(settings, method, optimiser, frozen, trainable))

            def evaluate(state: TrainState) -> dict[str, Any]:
                answered = self._answers(
                    merge(state.trainable, frozen), validation, settings.rollout, 101, config.rl_prompts
                )
                return {"score": np.mean([s.verdict.reward for s in judge_all(answered, self.judge)])}

            plan = Phase(phase, settings.steps, evaluate=evaluate, evaluate_every=settings.steps)
            fitted = fit(plan, state, step, loader, self.run.tools(phase))
            warm = fitted.history[len(fitted.history) // 3 :]
            names = ("rollout_s", "update_s", "rl_step_s", "rollout_tokens_per_s", "update_tokens_per_s")
            speed = {n: float(np.median([r[n] for r in warm if n in r])) for n in names}
            return fitted.state.trainable, best_record(fitted) | {
                "speed": speed | {"trainable_parameters": count_parameters(trainable)}
            }

        result = self.run.phase(phase, train, trainable)
        self.agent = merge(result.tree, frozen)
        speed = dict(result.record["speed"])
        self.speed = {"task": self.task, "space": self.space, "step_s": speed.pop("rl_step_s"), **speed}

    def rl_config(self) -> RLConfig:
        """Settings of stage 6."""
        config = self.material.config
        return RLConfig(
            algorithm=ALGORITHMS[config.algorithms[self.task]],
            space=SPACES[self.space],
            steps=config.rl_steps,
            prompts=config.rl_prompts,
            rollout=self.material.rollout_config(config.rl_samples),
            optimiser=config.rl_latent if self.space == "latent" else config.rl_token,
        )

    def score(self, phase: str) -> dict[str, Any]:
        """Scores, diversity and sample answers after `phase` ("sft" or "rl"), as a JSON record."""
        result = self.run.phase(f"scores_{phase}_{self.space}_{self.task}", lambda: (None, self._score(phase)))
        return result.record

    def _score(self, phase: str) -> dict[str, Any]:
        config = self.material.config
        embedder, rows, samples = load_embedder("hashing"), [], {}
        fluent: list[bool] = []
        examples = {
            name: self.material.examples(self.task, split)[: config.score_prompts]
            for split, name in zip(TASK_SPLITS[self.task], ("id", "ood"))
        }
        for temperature, count in ((1.0, config.score_samples), (0.1, config.near_greedy_samples)):
            rollouts = self.material.rollout_config(count, temperature)
            together = [example for part in examples.values() for example in part]
            answers = iter(self._answers(self.agent, together, rollouts, 202, SCORE_BATCH))
            for name, part in examples.items():
                answered = [next(answers) for _ in part]
                summary = summarise(judge_all(answered, self.judge))
                spread, distinct = answer_diversity(answered, embedder)
                rows.append(
                    {
                        "task": self.task,
                        "space": self.space,
                        "phase": phase,
                        "split": name,
                        "temperature": temperature,
                        "prompts": summary.prompts,
                        "samples": count,
                        **dataclasses.asdict(summary.score),
                        "dimensions": {n: dataclasses.asdict(e) for n, e in summary.dimensions.items()},
                        "diversity": spread.diversity,
                        "diversity_reciprocal_mean": spread.reciprocal_mean,
                        "distinct": distinct,
                        "length": mean_length(answered),
                    }
                )
                if temperature == 1.0:
                    samples[name] = [self._sample(item) for item in answered[:20]]
                    fluent += [is_fluent(answer.text) for item in answered for answer in item.answers]
        fluency = {"share": float(np.mean(fluent)), "checked": len(fluent)}
        return {"scores": rows, "answers": samples, "fluency": fluency, "fixed": self._fixed()}

    def _fixed(self) -> dict[str, list[float]]:
        """Rewards on the fixed training prompts, by row."""
        config = self.material.config
        examples = self.material.examples(self.task, "rl")[: config.gain_prompts]
        rollouts = self.material.rollout_config(config.gain_samples)
        answered = self._answers(self.agent, examples, rollouts, 303, SCORE_BATCH)
        rewards: dict[str, list[float]] = {}
        for item in judge_all(answered, self.judge):
            rewards.setdefault(item.row, []).append(item.verdict.reward)
        return rewards

    def _answers(
        self,
        agent: Agent,
        examples: Sequence[Example],
        config: RolloutConfig,
        salt: int,
        batch_size: int,
    ) -> list[Answered]:
        key = jax.random.fold_in(jax.random.key(self.material.config.seed), salt)
        space = SPACES[self.space].actions(agent, self.material.config.method)
        prompts, tokenizer = self.material.prompts[self.task], self.material.tokenizer
        return generate(space, examples, prompts, tokenizer, config, key, batch_size)

    def _sample(self, item: Answered) -> dict[str, Any]:
        """The first answer to a prompt, with its tokens and codes."""
        answer = item.answers[0]
        verdict = self.judge([answer.text], [item.example])[0]
        pieces = [self.material.tokenizer.decode([token]) for token in answer.tokens]
        return {
            "id": item.example.id,
            "space": self.space,
            "text": answer.text,
            "tokens": pieces,
            "actions": answer.actions if self.space == "latent" else None,
            "score": verdict.reward,
            "dimensions": verdict.ratios,
        }


def gain(before: dict[str, list[float]], after: dict[str, list[float]]) -> dict[str, Any]:
    """RL's gain on the fixed training prompts, with its paired standard error."""

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
