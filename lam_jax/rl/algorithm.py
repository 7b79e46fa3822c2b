"""An RL algorithm is a value: which advantage, which clipping, which normaliser (method.md section 4)."""

from __future__ import annotations

import dataclasses
from typing import Literal, get_args

AdvantageKind = Literal["group_std", "group_mean", "batch_std"]
Normaliser = Literal["sequence_mean", "max_length", "global_tokens", "local_tokens"]
Importance = Literal["token", "sequence"]
Objective = Literal["clipped", "cispo"]
FailedCalls = Literal["drop", "fill"]

RELEASED = ("grpo", "dr_grpo", "dapo", "bnpo")


@dataclasses.dataclass(frozen=True)
class Algorithm:
    """Everything that distinguishes one policy-gradient algorithm from another.

    Attributes:
        name: label in logs and reports.
        advantage: `group_std` (R - mean) / (std + 1e-4) within a prompt's group, `group_mean` R - mean,
            `batch_std` (R - group mean) / (std of the whole batch + 1e-4). Standard deviations are sample ones.
        normaliser: what the sum of token losses is divided by; see `rl.normalisers`.
        objective: `clipped` is PPO's pessimistic minimum; `cispo` weights the log-probability by the capped,
            gradient-stopped ratio min(r, 1 + clip_high).
        importance: ratio of a token, or GSPO's length-normalised ratio of the whole sequence.
        clip_low, clip_high: the ratio is clipped to [1 - clip_low, 1 + clip_high].
        clip_delta: upper bound of the *unclipped* ratio (two-sided clipping, INTELLECT-2); None = unbounded.
        beta: weight of the k3 estimate of KL(pi || pi_ref).
        dynamic_sampling_std: groups whose reward std is under this are replaced; None = keep all groups.
        max_refills: how often dropped groups are sampled anew before the batch goes on without them.
        overlong_share: share of the completion length over which the soft overlong penalty grows from 0 to -1.
        failed_calls: a sample whose judge call failed is masked (`drop`), or kept with the reward
            (sum of the group's successful rewards) / G (`fill`, the released code).
    """

    name: str
    advantage: AdvantageKind = "group_std"
    normaliser: Normaliser = "sequence_mean"
    objective: Objective = "clipped"
    importance: Importance = "token"
    clip_low: float = 0.2
    clip_high: float = 0.2
    clip_delta: float | None = None
    beta: float = 0.01
    dynamic_sampling_std: float | None = None
    max_refills: int = 3
    overlong_share: float = 0.0
    failed_calls: FailedCalls = "drop"

    def __post_init__(self):
        choices = {
            "advantage": AdvantageKind,
            "normaliser": Normaliser,
            "objective": Objective,
            "importance": Importance,
            "failed_calls": FailedCalls,
        }
        for field, kind in choices.items():
            if getattr(self, field) not in get_args(kind):
                raise ValueError(
                    f"Algorithm {self.name!r}: {field} is {getattr(self, field)!r}, expected one of {get_args(kind)}"
                )
        for field in ("clip_low", "clip_high", "beta", "max_refills"):
            if getattr(self, field) < 0:
                raise ValueError(f"Algorithm {self.name!r}: {field} is {getattr(self, field)}, expected 0 or more")
        if self.clip_delta is not None and self.clip_delta <= 1 + self.clip_high:
            raise ValueError(
                f"Algorithm {self.name!r}: clip_delta is {self.clip_delta}, expected more than 1 + clip_high = "
                f"{1 + self.clip_high}; a smaller bound would undo the clipping"
            )
        if not 0 <= self.overlong_share <= 1:
            raise ValueError(f"Algorithm {self.name!r}: overlong_share is {self.overlong_share}, expected 0 to 1")

    def official(self) -> Algorithm:
        """The variant that the released code runs: the four differ in their normaliser only.

        Raises:
            ValueError: the released code has no such algorithm.
        """
        if self.name not in RELEASED:
            raise ValueError(
                f"Algorithm {self.name!r} is not in the released code, so it has no official variant; choose one of "
                f"{RELEASED}"
            )
        return dataclasses.replace(
            self,
            advantage="group_std",
            clip_low=0.2,
            clip_high=0.2,
            clip_delta=None,
            dynamic_sampling_std=None,
            overlong_share=0.0,
            failed_calls="fill",
        )

    def overlong_tokens(self, max_length: int) -> int:
        """Width in tokens of the soft overlong zone at the end of a completion of at most `max_length` tokens."""
        return round(self.overlong_share * max_length)


ALGORITHMS = {
    algorithm.name: algorithm
    for algorithm in (
        Algorithm("grpo"),
        Algorithm("dr_grpo", advantage="group_mean", normaliser="max_length"),
        Algorithm("dapo", normaliser="global_tokens", clip_high=0.28, dynamic_sampling_std=1e-3, overlong_share=0.2),
        Algorithm("bnpo", normaliser="local_tokens"),
        Algorithm("gspo", importance="sequence", clip_low=3e-4, clip_high=4e-4),
        Algorithm("cispo", objective="cispo", normaliser="global_tokens", clip_high=0.28),
    )
}


def algorithm_named(name: str) -> Algorithm:
    """One of `ALGORITHMS`.

    Raises:
        ValueError: no such algorithm.
    """
    if name not in ALGORITHMS:
        raise ValueError(f"Algorithm {name!r}: expected one of {sorted(ALGORITHMS)}.")
    return ALGORITHMS[name]
