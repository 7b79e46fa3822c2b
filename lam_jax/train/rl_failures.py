"""Reward calls that failed: how many of which kind, and when a run stops because (nearly) none can be used."""

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence

from lam_jax.errors import NoUsableRewardError
from lam_jax.parallel.multihost import gather_json
from lam_jax.rewards.verdict import Verdict

OTHER_KIND = "other"  # of a failure whose verdict names none
SHOWN_KINDS, SHOWN_TEXT = 3, 400
# What to set, by how a kind begins. The first that fits is said.
ADVICE = {
    "http_400": "The judge refuses the requests: its answer says which setting, often the temperature or max_tokens.",
    "http_401": "The key is missing or wrong.",
    "http_402": "The judge's account has no credit left.",
    "http_403": "The key may not use this model.",
    "http_404": "No such address or model: check both, and that the address ends in /v1.",
    "http_429": "Allow fewer requests at a time or a minute.",
    "http_5": "The judge's server fails: look at its log, or try again later.",
    "rate_limit": "Allow fewer requests at a time or a minute.",
    "quota": "The judge's account has no credit left.",
    "timeout": "Raise the timeout, or allow fewer requests at a time.",
    "truncated": "Allow the judge longer replies.",
    "unparsable": "The judge does not answer in the form asked for: take a model that follows instructions.",
    "missing_dimension": "The judge does not answer in the form asked for: take a model that follows instructions.",
    "doubled_dimension": "The judge does not answer in the form asked for: take a model that follows instructions.",
    "out_of_range": "The judge does not answer in the form asked for: take a model that follows instructions.",
    "unfinished_thinking": "Allow the judge longer replies (max_tokens), or have it think less.",
    "html": "That is a web page, no endpoint: check that the address ends in /v1.",
    "no_finish_reason": "The server does not say why a reply ended: it may be cut off. Take a server that says so.",
    "refused": "The judge declines to score these texts: take another model.",
    "connection": "The judge cannot be reached: check the address, and that it runs.",
}


@dataclasses.dataclass(frozen=True)
class Failures:
    """Reward calls, the same on every process.

    Attributes:
        calls: all.
        kinds: kind -> how many failed so.
        texts: kind -> what one of them said.
    """

    calls: int = 0
    kinds: Mapping[str, int] = dataclasses.field(default_factory=dict)
    texts: Mapping[str, str] = dataclasses.field(default_factory=dict)

    @classmethod
    def of(cls, verdicts: Sequence[Verdict]) -> "Failures":
        """Of verdicts that this process has all of."""
        failed = [(verdict.kind or OTHER_KIND, verdict.error) for verdict in verdicts if verdict.error is not None]
        return cls(len(verdicts), dict(Counter(kind for kind, _ in failed)), dict(reversed(failed)))

    @property
    def usable(self) -> int:
        """Calls that succeeded."""
        return self.calls - sum(self.kinds.values())

    def __add__(self, other: "Failures") -> "Failures":
        kinds = Counter(self.kinds)
        kinds.update(other.kinds)
        return Failures(self.calls + other.calls, dict(kinds), {**other.texts, **self.texts})

    def __str__(self) -> str:
        """The commonest kinds with what they said and what to do."""
        lines = []
        for kind, count in Counter(self.kinds).most_common(SHOWN_KINDS):
            advice = next((text for start, text in ADVICE.items() if kind.startswith(start)), "")
            text = " ".join(self.texts.get(kind, "").split())
            text = text if len(text) <= SHOWN_TEXT else f"{text[:SHOWN_TEXT]}..."
            lines.append(f"  {kind}: {count} of {self.calls} calls. {text} {advice}".rstrip())
        if (more := len(self.kinds) - SHOWN_KINDS) > 0:
            lines.append(f"  and {more} further kinds")
        return "\n".join(lines)


Places = Mapping[tuple[int, int], str]


def count_failures(kinds: Places, errors: Places, calls: int, failed: int) -> Failures:
    """The failures of a rollout on all processes, each of which calls it.

    Args:
        kinds, errors: (prompt, sample) -> what kind of failure it was and what was said, of this process's samples.
        calls, failed: of all processes; where none failed, they need not tell each other more.
    """
    if not failed:
        return Failures(calls)
    own = Counter(kinds.values())
    texts = {kind: errors[place] for place, kind in reversed(list(kinds.items()))}
    total = Failures(calls)
    for counts, said in gather_json([dict(own), texts]):
        total = total + Failures(0, counts, said)
    return total


class FailureWatch:
    """Stops a run whose reward calls (nearly) all fail, step after step.

    Args:
        most: steps in a row with too few usable calls after which the run stops; 0: never.
        least: share of a step's calls that have to be usable.
    """

    def __init__(self, most: int, least: float):
        self.most, self.least = most, least
        self._steps, self._failures = 0, Failures()

    def step(self, failures: Failures) -> None:
        """Counts a step.

        Raises:
            NoUsableRewardError: it is one too many; what the run had done is kept.
        """
        if failures.usable >= self.least * failures.calls and failures.usable > 0:
            self._steps, self._failures = 0, Failures()
            return
        self._steps, self._failures = self._steps + 1, self._failures + failures
        if self.most and self._steps >= self.most:
            found = self._failures
            # A caller that goes on all the same has as many steps again.
            self._steps, self._failures = 0, Failures()
            raise NoUsableRewardError(
                f"Of the {found.calls} reward calls of the last {self.most} steps {found.usable} could be used, less "
                f"than {self.least:.0%} of each step's, so nothing is learned. The commonest reasons:\n{found}\n"
                "Correct the reward's settings and run the same command again: it goes on from the last checkpoint. "
                f"RLSettings.max_failed_steps ({self.most}; 0: never stop) and RLSettings.least_usable "
                f"({self.least}) say when a run stops."
            )
