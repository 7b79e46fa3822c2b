"""`lam-jax judge check`."""

import dataclasses
from typing import Annotated, Literal

import tyro


@dataclasses.dataclass(frozen=True)
class Judge:
    """Tries a judge's endpoint with one good and one bad answer and shows scores, seconds and tokens.

    Ends with code 1 if the judge cannot be used, or if the bad answer scores as well as the good one.
    """

    action: Annotated[Literal["check"], tyro.conf.Positional]
    """What to do."""
    judge: str
    """Address of an OpenAI-compatible endpoint, ending in /v1."""
    judge_model: str
    """The judge's name there."""
    task: Literal["role_play", "help"] = "role_play"
    """Which rubric."""
    judge_settings: tuple[str, ...] = ()
    """NAME=VALUE of other fields of lam_jax.JudgeConfig, e.g. token_limit=max_completion_tokens temperature=none."""
    official: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Ask and read as the recipe `official` does."""
    show_replies: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Print the judge's replies whole."""

    def run(self) -> int:
        """Asks twice."""
        from lam_jax.rewards.judge_check import check
        from lam_jax.rewards.judge_config import judge_config

        config = judge_config(self.judge, self.judge_model, self.judge_settings)
        return check(config.official() if self.official else config, self.task, self.show_replies)
