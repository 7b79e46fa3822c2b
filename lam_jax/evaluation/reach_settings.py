"""How far the codes can move the answers: what is measured of it, and what a run asks for before RL."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class ReachSettings:
    """What is measured of how far the codes can move the answers, before RL is paid for (method.md section 6).

    Attributes:
        rows: of held-out paired rows, of text-only rows and of a task's validation rows.
        prompts: of a task's validation rows, that are answered for their scores; 0: none are.
        samples: answers to each of these prompts; curves of the best of n go up to this n.
        judged: answers are also drawn and scored where a judge scores, whose calls may cost money.
        least_gain: nats by which the inferred codes should raise log p of a reference token over the backbone, mean
            over the response tokens of validation rows after stage 5; None: nothing is asked.
        least_lead: of reward, by which the policy's answers should be above those under random codes; None: likewise.
        stop: a run that stays under one of them ends before RL; else it is warned of.
    """

    rows: int = 32
    prompts: int = 16
    samples: int = 8
    judged: bool = False
    least_gain: float | None = 0.1
    least_lead: float | None = 0.05
    stop: bool = False

    def __post_init__(self):
        for name, least in (("rows", 1), ("prompts", 0), ("samples", 2)):
            if getattr(self, name) < least:
                raise ValueError(f"ReachSettings.{name} is {getattr(self, name)}, expected at least {least}.")
