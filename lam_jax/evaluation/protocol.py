"""How an agent is evaluated, as a value; the defaults are the paper's (method.md section 5)."""

import dataclasses

from lam_jax.errors import BadSettingError
from lam_jax.rollout.sampling import SamplingConfig


@dataclasses.dataclass(frozen=True)
class EvaluationProtocol:
    """What is drawn of each prompt: answers that are scored, and answers whose diversity is measured.

    Attributes:
        samples, temperature, top_k: of the scored answers; the top-k of the codes, tokens are not truncated.
        diversity_samples, diversity_temperature, diversity_top_k: of the others; 0 samples: diversity is not measured.
        repetition_penalty: of both, see `SamplingConfig`.
        length: most tokens of an answer; None: the agent's own.
        prompts: of each set of rows, the first ones; None: all.
        seed: of the draws, which it and a row's place in its set determine for every agent alike.
    """

    samples: int = 3
    temperature: float = 0.1
    top_k: int | None = 64
    diversity_samples: int = 8
    diversity_temperature: float = 1.0
    diversity_top_k: int | None = 32
    repetition_penalty: float = 1.0
    length: int | None = None
    prompts: int | None = None
    seed: int = 0

    def __post_init__(self):
        least = {"samples": 1, "top_k": 1, "diversity_samples": 0, "diversity_top_k": 1, "length": 1, "prompts": 1}
        least |= {"temperature": 0, "diversity_temperature": 0, "seed": 0}
        for name, smallest in least.items():
            value = getattr(self, name)
            if value is not None and not smallest <= value < float("inf"):
                flag = name.replace("_", "-")
                raise BadSettingError(f"--{flag}: found {value}, expected at least {smallest}.")
        if self.diversity_samples == 1:
            raise BadSettingError("--diversity-samples: found 1, expected 0 (not measured) or at least 2.")
        if not self.repetition_penalty > 0:
            raise BadSettingError(f"--repetition-penalty: found {self.repetition_penalty}, expected more than 0.")

    def sampling(self, coded: bool) -> SamplingConfig:
        """Of the scored answers; `coded`: of codes, not tokens."""
        return self._sampling(coded, self.temperature, self.top_k)

    def diversity_sampling(self, coded: bool) -> SamplingConfig:
        """Of the answers whose diversity is measured."""
        return self._sampling(coded, self.diversity_temperature, self.diversity_top_k)

    def _sampling(self, coded: bool, temperature: float, top_k: int | None) -> SamplingConfig:
        return SamplingConfig(
            temperature=temperature, top_k=top_k if coded else None, repetition_penalty=self.repetition_penalty
        )
