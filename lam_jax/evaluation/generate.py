"""Answers to a set of prompts, for evaluation: batches of one shape, samples numbered globally.

Legend: N prompts of a batch, G samples of a prompt.
"""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np

from lam_jax.data.collator import Collated
from lam_jax.data.loader import in_order
from lam_jax.data.schemas import Example
from lam_jax.errors import RewardError
from lam_jax.evaluation.diversity import Diversity, distinct_answers, text_diversity
from lam_jax.evaluation.scoring import Scored
from lam_jax.parallel.multihost import all_agree, gather_json, to_host
from lam_jax.rewards.embedding import Embedder
from lam_jax.rewards.reward import Reward, Verdicts, check_verdicts
from lam_jax.rewards.verdict import Verdict
from lam_jax.rollout.actions import ActionSpace
from lam_jax.rollout.engine import RolloutConfig
from lam_jax.rollout.run import fill_prompts, fill_samples, prepared, require_numbers, run_rollout


@dataclasses.dataclass(frozen=True)
class Answer:
    """One sampled continuation.

    Attributes:
        text: without special tokens.
        tokens: ids up to and including the one that ends it.
        actions: the code (or token) behind each token.
        logps: log-probability of each action under what it was drawn from, see `SamplingConfig`.
        finished: whether it ends in a token that ends answers; else it was cut at the most tokens.
    """

    text: str
    tokens: list[int]
    actions: list[int]
    logps: list[float] = dataclasses.field(default_factory=list)
    finished: bool = True


@dataclasses.dataclass(frozen=True)
class Played(Answer):
    """All answers of one game, one behind the other, and what the environment gave for them.

    Attributes:
        verdict: with the return as its reward.
    """

    verdict: Verdict = dataclasses.field(default_factory=lambda: Verdict(error="not played"))


@dataclasses.dataclass(frozen=True)
class Answered:
    """A prompt with its G answers."""

    example: Example
    answers: Sequence[Answer]


def generate(
    space: ActionSpace,
    examples: Sequence[Example],
    collate: Callable[[Sequence[Example], int], Collated],
    tokenizer: Any,
    config: RolloutConfig,
    key: jax.Array,
    batch_size: int,
) -> list[Answered]:
    """Samples answers to all examples, in order.

    The last batch is filled up with masked prompts, and a mesh with samples that are thrown away.

    Raises:
        NonFiniteError: logits of an answer are NaN.
    """
    batches = generate_batches(space, examples, collate, tokenizer, config, key, batch_size)
    return [answered for batch in batches for answered in batch]


def generate_batches(
    space: ActionSpace,
    examples: Sequence[Example],
    collate: Callable[[Sequence[Example], int], Collated],
    tokenizer: Any,
    config: RolloutConfig,
    key: jax.Array,
    batch_size: int,
    first: int = 0,
) -> Iterator[list[Answered]]:
    """As `generate`, batch by batch; `first` is the number of the first example, on which its draws depend."""
    space = prepared(space)
    samples, ends = config.samples, space.backbone.config.eos_ids
    config = dataclasses.replace(config, samples=fill_samples(samples, space))
    for index, collated in enumerate(in_order(examples, collate, batch_size)):
        prompts = fill_prompts(collated.batch, space)
        count = len(prompts.tokens)
        start = (first + index * batch_size) * samples
        ids = np.arange(count * samples, dtype=np.int32).reshape(count, samples) + start
        surplus = np.full((count, config.samples - samples), np.iinfo(np.int32).max, np.int32)
        rollout = run_rollout(space, prompts, np.concatenate([ids, surplus], axis=1), key, config)
        require_numbers(rollout, [example.id for example in collated.examples])
        tokens, actions, logps, mask = to_host((rollout.tokens, rollout.actions, rollout.logps, rollout.mask))
        out: list[Answered] = []
        for row, example in enumerate(collated.examples):
            kept = [[x[row, g][mask[row, g]] for x in (tokens, actions, logps)] for g in range(samples)]
            # The end is left out by its id too: a tokenizer's file may call it an ordinary token.
            said = [[token for token in t.tolist() if token not in ends] for t, _, _ in kept]
            texts = tokenizer.batch_decode(said, skip_special_tokens=True)
            answers = [
                # Of log-probabilities the digits of a float32, not those of its float64.
                Answer(text, t.tolist(), a.tolist(), [float(str(x)) for x in p], bool(t.size and t[-1] in ends))
                for text, (t, a, p) in zip(texts, kept)
            ]
            out.append(Answered(example, answers))
        yield out


def score_answers(answered: Sequence[Answered], reward: Reward) -> list[Scored]:
    """Verdicts on every answer, keyed by (row, sample), the same on every process; all of them must call it.

    Each process scores its share of the prompts, so that a judge is asked about each answer once. Games bring the
    verdicts of their environment.

    Raises:
        RewardShapeError: the reward gave something else than a verdict an answer.
        RewardError: it failed on another process.
    """
    if not answered:
        return []
    if all(isinstance(answer, Played) for item in answered for answer in item.answers):
        return [  # every process has played every game
            Scored(item.example.id, number, answer.verdict)
            for item in answered
            for number, answer in enumerate(item.answers)
            if isinstance(answer, Played)
        ]
    samples = range(len(answered[0].answers))
    processes, own = jax.process_count(), jax.process_index()
    share = answered[own::processes]
    found: Verdicts = []
    failure: Exception | None = None
    try:
        if share:
            texts = [[answer.text for answer in item.answers] for item in share]
            given = reward([item.example for item in share], texts, samples)
            found = check_verdicts(given, type(reward).__name__, len(share), len(samples))
    except Exception as error:
        failure = error
    # The other processes would wait for this one's verdicts.
    if not all_agree(failure is None):
        raise failure or RewardError("A reward failed on another process of the run; its message says where.")
    verdicts = found if processes == 1 else _gathered(found, len(answered))
    return [Scored(item.example.id, g, row[g]) for item, row in zip(answered, verdicts, strict=True) for g in samples]


def _gathered(own: Verdicts, count: int) -> Verdicts:
    """The verdicts on all `count` prompts, of which each process has every n-th."""
    shares = gather_json([[dataclasses.asdict(verdict) for verdict in row] for row in own])
    verdicts: Verdicts = [[] for _ in range(count)]
    for first, share in enumerate(shares):
        verdicts[first :: len(shares)] = [[_verdict(fields) for fields in row] for row in share]
    return verdicts


def _verdict(fields: dict[str, Any]) -> Verdict:
    scores = {name: (first, second) for name, (first, second) in fields["scores"].items()}
    return Verdict(scores, fields["error"], fields["parts"], fields["kind"])


def answer_diversity(answered: Sequence[Answered], embedder: Embedder) -> tuple[Diversity, float]:
    """Diversity of the prompts' answers, and distinct answers per prompt."""
    texts = [[a.text for a in item.answers] for item in answered]
    return text_diversity(texts, embedder), distinct_answers(texts)


def mean_length(answered: Sequence[Answered]) -> float:
    """Mean number of tokens of an answer."""
    return float(np.mean([len(a.tokens) for item in answered for a in item.answers]))
