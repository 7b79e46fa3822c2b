"""What a run will ask of its judge: calls and tokens, told before it starts."""

import dataclasses
import math
from collections.abc import Sequence

from lam_jax.data.schemas import Example
from lam_jax.pipeline.phases import is_scored
from lam_jax.pipeline.resources import Resources, rewards_of_task
from lam_jax.rewards.judge import JudgeReward, judges_of
from lam_jax.rewards.judge_prompt import judge_messages
from lam_jax.tasks.task import Task
from lam_jax.train.spaces import SPACES

ROWS = 64  # whose prompts are measured
CHARACTERS_A_TOKEN = 4
# A dimension's sentences and its scores, tokens; judges that think write several times as much.
TOKENS_A_DIMENSION = 60


@dataclasses.dataclass(frozen=True)
class JudgeCost:
    """An estimate for one task and judge, over all action spaces.

    Attributes:
        task, model: names.
        training, evaluation: calls for rewards of stage 6, and for validation and scores.
        refills: further calls at most, where dynamic sampling draws prompts again.
        prompt, completion: tokens of a call, on average.
        rows: whose prompts were measured.
        counter: how tokens were counted.
    """

    task: str
    model: str
    training: int
    evaluation: int
    refills: int
    prompt: int
    completion: int
    rows: int
    counter: str

    @property
    def calls(self) -> int:
        """Without refills."""
        return self.training + self.evaluation

    def __str__(self) -> str:
        refills = f", and up to {self.refills:,} more where groups are drawn again" if self.refills else ""
        return (
            f"judge {self.model}, task {self.task}: about {self.calls:,} calls ({self.training:,} for rewards, "
            f"{self.evaluation:,} for validation and scores{refills}); a call about {self.prompt:,} tokens and a reply "
            f"of {self.completion:,} (mean over {self.rows} prompts, {self.counter}), so about "
            f"{self.calls * self.prompt / 1e6:,.2f} million tokens in and {self.calls * self.completion / 1e6:,.2f} "
            "million out; calls that fail and are repeated come on top, and a judge that thinks writes more"
        )


def judge_costs(resources: Resources) -> list[JudgeCost]:
    """The estimate of each task that has a judge; of training's and the tests' judges apart where they differ."""
    found: list[JudgeCost] = []
    for task in resources.recipe.tasks:
        training, own, tests = _calls(resources, task)
        rewards = rewards_of_task(task)
        shared = len(rewards) == 1
        found += [_cost(resources, task, j, training, own + tests * shared) for j in judges_of(task.reward)]
        found += [_cost(resources, task, judge, 0, tests) for reward in rewards[1:] for judge in judges_of(reward)]
    return found


def judge_cost_lines(resources: Resources) -> list[str]:
    """The estimates as sentences; none where no task has a judge."""
    return [str(cost) for cost in judge_costs(resources)]


def _calls(resources: Resources, task: Task) -> tuple[int, int, int]:
    """Answers that are scored in RL, in its validation and on fixed prompts, and of the tests; over all spaces."""
    recipe = resources.recipe
    rl, settings, spaces = recipe.rl, recipe.evaluation, len(recipe.spaces)
    validations = 1 + (math.ceil(rl.steps / rl.validate_every) if rl.validate_every else 1)
    validated = min(rl.prompts, len(resources.examples(task.name, task.val))) * rl.samples
    tests = sum(len(resources.examples(task.name, scored.split)[: settings.prompts]) for scored in task.tests.values())
    answers = sum(answer_set.samples for answer_set in settings.answers)
    fixed = min(settings.gain_prompts, len(resources.examples(task.name, task.rl))) * settings.gain_samples
    # Tests and fixed prompts after stage 5 and after stage 6.
    return (
        rl.steps * rl.prompts * rl.samples * spaces,
        (validations * validated + 2 * fixed) * spaces + _reach_calls(resources, task),
        2 * answers * tests * spaces,
    )


def _reach_calls(resources: Resources, task: Task) -> int:
    """Answers that the probe of the codes' reach has scored, over all spaces."""
    recipe = resources.recipe
    settings = recipe.evaluation.reach
    if settings is None or not is_scored(settings, task):
        return 0
    prompts = min(settings.prompts, len(resources.examples(task.name, task.val)))
    coded = sum(SPACES[space].coded for space in recipe.spaces)
    # Drawn by the policy in every space, and in those of codes at random, after stages 5 and 6; after 5 along the
    # reference too, twice.
    return prompts * (2 * settings.samples * (len(recipe.spaces) + coded) + 2 * coded)


def _cost(resources: Resources, task: Task, judge: JudgeReward, training: int, evaluation: int) -> JudgeCost:
    algorithm = resources.recipe.rl.algorithm_of(task.name)
    refills = algorithm.max_refills if algorithm.dynamic_sampling_std is not None else 0
    prompt, rows, counter = _prompt_tokens(resources, judge, resources.examples(task.name, task.rl))
    return JudgeCost(
        task.name,
        judge.judge.model,
        training,
        evaluation,
        refills * training,
        prompt,
        min(judge.judge.max_tokens, TOKENS_A_DIMENSION * len(judge.rubric.dimensions)),
        rows,
        counter,
    )


def _prompt_tokens(resources: Resources, judge: JudgeReward, examples: Sequence[Example]) -> tuple[int, int, str]:
    """Mean tokens of what the judge is asked about reference answers, over some rows; how many; how counted."""
    chosen = [examples[index] for index in range(0, len(examples), max(1, len(examples) // ROWS))][:ROWS]
    texts = []
    for example in chosen:
        answer = example.reference if example.has_reference else ""
        request = judge.request(example, 0, answer)
        messages = judge_messages(request, False, judge.judge.form)
        texts.append("\n".join(message["content"] for message in messages))
    # The small shipped tokenizer knows few words: it would count several times what a judge does.
    if resources.config.text.vocab_size < 50_000:
        return sum(map(len, texts)) // CHARACTERS_A_TOKEN // len(texts), len(texts), "4 characters a token"
    return sum(len(resources.tokenizer.encode(t)) for t in texts) // len(texts), len(texts), "the run's tokenizer"
