"""Rewards of a rollout, computed by each process for the samples that its devices hold, and advantages from them.

Legend: N prompts, G samples of a prompt, T completion length.
"""

import dataclasses
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from lam_jax.data.schemas import Example
from lam_jax.errors import RewardError
from lam_jax.parallel.multihost import all_agree, gather, gather_json
from lam_jax.rewards.reward import Reward, Verdicts, check_verdicts, rewards_of
from lam_jax.rewards.verdict import Verdict
from lam_jax.rl import Algorithm, compute_advantages, group_std, informative_groups, overlong_penalty
from lam_jax.runs.metrics import REWARD_PART
from lam_jax.train.rl_failures import OTHER_KIND

# (tokens [N, G, T], mask [N, G, T]) -> answers [N][G]
Decode = Callable[[np.ndarray, np.ndarray], list[list[str]]]


@dataclasses.dataclass(frozen=True)
class Scores:
    """Of every sample, the same on every process but for the errors.

    Attributes:
        rewards: 0 where the reward call failed.
        ok: whether it succeeded.
        lengths: tokens.
        parts: named parts of the rewards, NaN where a sample has none of that name; in the order of their names.
        errors: (prompt, sample) -> why the call failed, of the samples that this process scored.
        kinds: (prompt, sample) -> what kind of failure that was, likewise.
    """

    rewards: Float[np.ndarray, "N G"]
    ok: Bool[np.ndarray, "N G"]
    lengths: Int[np.ndarray, "N G"]
    parts: Mapping[str, Float[np.ndarray, "N G"]] = dataclasses.field(default_factory=dict)
    errors: Mapping[tuple[int, int], str] = dataclasses.field(default_factory=dict)
    kinds: Mapping[tuple[int, int], str] = dataclasses.field(default_factory=dict)

    def metrics(self, ended: Any) -> dict[str, float]:
        """Means over the samples; `ended`: [N, G], whether an answer came to an end by itself.

        Of each named part too, over the samples that have it; none if no sample has.
        """
        parts = {name: values[np.isfinite(values)] for name, values in self.parts.items()}
        return {
            "reward_mean": float(self.rewards[self.ok].mean()) if self.ok.any() else 0.0,
            "reward_std": _group_std(self.rewards, self.ok),
            "length_mean": float(self.lengths.mean()),
            "ended": float(np.mean(ended)),
            "failed_rewards": float((~self.ok).sum()),
        } | {f"{REWARD_PART}{name}": float(values.mean()) for name, values in parts.items() if len(values)}


def parts_of(verdict: Verdict) -> Mapping[str, float]:
    """The named parts of a reward; none if the call failed."""
    return verdict.named if verdict.ok else {}


def _group_std(rewards: Float[np.ndarray, "N G"], ok: Bool[np.ndarray, "N G"]) -> float:
    """Mean over prompts of the sample standard deviation of the successful rewards, where there are two or more."""
    compared = ok.sum(axis=1) >= 2
    return float(group_std(rewards, ok)[compared].mean()) if compared.any() else 0.0


def advantages_of(
    algorithm: Algorithm, scores: Scores, longest: int
) -> tuple[Float[np.ndarray, "N G"], Bool[np.ndarray, "N G"]]:
    """Advantages, and which samples count: of dynamic sampling only groups with a signal."""
    penalty = overlong_penalty(scores.lengths, longest, algorithm.overlong_tokens(longest))
    shaped = scores.rewards + penalty
    advantages, active = compute_advantages(algorithm, shaped, scores.ok)
    if algorithm.dynamic_sampling_std is not None:
        informative = informative_groups(shaped, scores.ok, algorithm.dynamic_sampling_std)
        active = active & informative[:, None]
    return advantages, active


class Decoder:
    """Turns completion tokens into text.

    Args:
        tokenizer: of the model.
        ends: tokens that end answers, left out even where the tokenizer's files call them ordinary ones.
    """

    def __init__(self, tokenizer: Any, ends: Collection[int] = ()):
        self.tokenizer, self.ends = tokenizer, frozenset(ends)

    def __call__(self, tokens: np.ndarray, mask: np.ndarray) -> list[list[str]]:
        """Answers [N][G] of tokens and mask [N, G, T], special tokens left out."""
        groups = [[self._words(row[keep]) for row, keep in zip(rows, keeps)] for rows, keeps in zip(tokens, mask)]
        return [self.tokenizer.batch_decode(group, skip_special_tokens=True) for group in groups]

    def _words(self, row: np.ndarray) -> list[Any]:
        return [token for token in row if int(token) not in self.ends] if self.ends else list(row)


@dataclasses.dataclass(frozen=True)
class Asked:
    """What the reward said of the samples that this process scores.

    Attributes:
        shape: N prompts and G samples of all processes.
        scored: rows, columns, lengths and verdicts of each block of samples.
        failure: what the reward raised.
    """

    shape: tuple[int, int]
    scored: tuple[tuple[slice, slice, np.ndarray, Verdicts], ...]
    failure: Exception | None = None


def score(
    tokens: Int[Array, "M G T"],
    mask: Bool[Array, "M G T"],
    examples: Sequence[Example],
    decode: Decode,
    reward: Reward,
) -> Scores:
    """Scores the samples of the first N = len(examples) of M prompts; the others fill up the mesh.

    Raises:
        RewardError: a reward function of the user's own raised an exception, on this process or another.
    """
    return gathered(ask(tokens, mask, examples, decode, reward))


def ask(
    tokens: Int[Array, "M G T"],
    mask: Bool[Array, "M G T"],
    examples: Sequence[Example],
    decode: Decode,
    reward: Reward,
) -> Asked:
    """This process's part of `score`, which waits for no other: it may run in a thread."""
    shape = (len(examples), tokens.shape[1])
    scored: list[tuple[slice, slice, np.ndarray, Verdicts]] = []
    try:
        for rows, columns, own_tokens, own_mask in _own_blocks(tokens, mask, shape[0]):
            answers = decode(own_tokens, own_mask)
            samples = range(shape[1])[columns]
            found = reward(examples[rows], answers, samples)
            verdicts = check_verdicts(found, type(reward).__name__, len(answers), len(samples))
            scored.append((rows, columns, own_mask.sum(axis=-1), verdicts))
    except Exception as error:
        return Asked(shape, (), error)
    return Asked(shape, tuple(scored))


def gathered(asked: Asked) -> Scores:
    """The scores of all processes, each of which calls it.

    Raises:
        RewardError: a reward function of the user's own raised an exception, on this process or another.
    """
    shape, scored, failure = asked.shape, asked.scored, asked.failure
    # The other processes would wait for this one's scores.
    if not all_agree(failure is None):
        raise failure or RewardError("A reward failed on another process of the run; its message says where.")
    own_names = {name for *_, verdicts in scored for row in verdicts for verdict in row for name in parts_of(verdict)}
    # A process whose calls all failed knows no names.
    names = sorted({name for process in gather_json(sorted(own_names)) for name in process})
    # Each sample is scored by one process; the others leave zeros in its place, and the sum is exact.
    own = np.zeros((3 + len(names), *shape))
    errors: dict[tuple[int, int], str] = {}
    kinds: dict[tuple[int, int], str] = {}
    for rows, columns, lengths, verdicts in scored:
        parts = [[[parts_of(v).get(name, np.nan) for v in row] for row in verdicts] for name in names]
        own[:, rows, columns] = *rewards_of(verdicts), lengths, *np.reshape(parts, (len(names), *lengths.shape))
        first_row, first_column = range(shape[0])[rows].start, range(shape[1])[columns].start
        for i, row in enumerate(verdicts):
            for j, verdict in enumerate(row):
                if verdict.error is not None:
                    errors[first_row + i, first_column + j] = verdict.error
                    kinds[first_row + i, first_column + j] = verdict.kind or OTHER_KIND
    # 64-bit numbers would arrive with 32 bits.
    rewards, ok, lengths, *parts = np.sum(gather(own.view(np.uint32)).view(np.float64), axis=0)
    return Scores(rewards, ok > 0, lengths.astype(np.int32), dict(zip(names, parts)), errors, kinds)


def _own_blocks(tokens: Array, mask: Array, count: int) -> Iterator[tuple[slice, slice, np.ndarray, np.ndarray]]:
    """Rows, columns, tokens and mask of the samples that this process scores; samples of a prompt come together."""
    token_shards, mask_shards = _held(tokens), _held(mask)
    if token_shards is None or mask_shards is None:
        yield slice(0, count), slice(None), np.asarray(tokens)[:count], np.asarray(mask)[:count]
        return
    held: dict[tuple[int, int], list[tuple[int, int, np.ndarray, np.ndarray]]] = {}
    masks = {shard.device: shard.data for shard in mask_shards}
    for shard in token_shards:
        if shard.replica_id == 0:
            first, last, _ = shard.index[0].indices(tokens.shape[0])
            start, stop, _ = shard.index[1].indices(tokens.shape[1])
            block = start, stop, np.asarray(shard.data), np.asarray(masks[shard.device])
            held.setdefault((first, min(last, count)), []).append(block)
    for (first, last), blocks in held.items():
        for start, stop, own_tokens, own_mask in _joined(sorted(blocks, key=lambda block: block[0])):
            if first < last:
                rows = last - first
                yield slice(first, last), slice(start, stop), own_tokens[:rows], own_mask[:rows]


def _held(array: Array) -> list[Any] | None:
    """The shards that this process holds; None if it holds all of the array."""
    return None if array.is_fully_addressable else list(array.addressable_shards)


def _joined(
    blocks: list[tuple[int, int, np.ndarray, np.ndarray]],
) -> Iterator[tuple[int, int, np.ndarray, np.ndarray]]:
    """Blocks of neighbouring columns as one: a judge is asked about all of them at a time."""
    start = 0
    for i in range(1, len(blocks) + 1):
        if i == len(blocks) or blocks[i][0] != blocks[i - 1][1]:
            run = blocks[start:i]
            tokens, mask = (np.concatenate([block[part] for block in run], axis=1) for part in (2, 3))
            yield run[0][0], run[-1][1], tokens, mask
            start = i


@jax.jit
def masked_mean(values: Float[Array, "N G T"], mask: Bool[Array, "N G T"]) -> Float[Array, ""]:
    """Mean over the tokens under the mask; 0 if there are none."""
    total = jnp.sum(jnp.where(mask, values, 0.0))
    return total / jnp.maximum(jnp.sum(mask), 1).astype(values.dtype)
