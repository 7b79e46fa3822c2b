"""How the report words things: names of tasks, splits, phases and measures, and how a number is printed."""

import dataclasses
import math
from collections.abc import Mapping

from lam_jax.report.schema import Row

SPACES = ("latent", "hybrid", "token")
MEASURE_NAMES = {
    "used_share": "Share of codes in use",
    "top_share": "Share of the most used code",
    "conditional_entropy": "Conditional entropy E[H(p)] [nat]",
    "mutual_information": "Mutual information [nat]",
    "random_action_kl": "KL under a random action [nat]",
    "random_action_kl_after_stage4": "KL under a random action, after stage 4 [nat]",
    "random_action_kl_after_sft": "KL under a random action, after SFT [nat]",
    "cloning_accuracy": "Cloning accuracy of the policy",
    "majority_share": "Share of the majority code",
    "image_text": "Image-text",
    "text_only": "Text-only",
}


def human_name(key: str) -> str:
    """A name for a metric or dimension key: the known ones by hand, any other by its words."""
    return MEASURE_NAMES.get(key) or (key[:1].upper() + key[1:]).replace("_", " ")


@dataclasses.dataclass(frozen=True)
class Titles:
    """How a run's tasks and their test splits are called, from the section `tasks` of its results."""

    tasks: Mapping[str, Row] = dataclasses.field(default_factory=dict)

    @classmethod
    def of(cls, results: Row) -> "Titles":
        """Those of a results.json."""
        return cls(results.get("tasks") or {})

    def task(self, name: str) -> str:
        """A task's title; its name in words where the results have none."""
        return self.tasks.get(name, {}).get("title") or human_name(name)

    def split(self, task: str, split: str) -> str:
        """What a test split of a task holds."""
        return (self.tasks.get(task, {}).get("splits") or {}).get(split) or split.upper()

    def short_split(self, task: str, split: str) -> str:
        """The first words of it: "ID" of "ID: unseen scenes"."""
        return self.split(task, split).split(":")[0]

    def phase(self, phase: str) -> str:
        """`stage3_joint` as "Stage 3: joint", `rl_latent_help` as "RL, latent: personalised help"."""
        head, _, rest = phase.partition("_")
        if head.startswith("stage") and head[5:].isdigit() and rest:
            return f"Stage {head[5:]}: {rest.replace('_', ' ')}"
        if phase == "reach":
            return "Reach of the codes, stage 4"
        passes = {"reach": "Reach", "sft": "SFT", "sft_clone": "SFT, cloning", "rl": "RL"}
        for first, title in passes.items():
            space, _, task = phase.removeprefix(f"{first}_").partition("_")
            if phase.startswith(f"{first}_") and space in SPACES and task:
                return f"{title}, {space}: {lower_first(self.task(task))}"
        return human_name(phase)


def lower_first(title: str) -> str:
    """A title in the middle of a sentence; one that begins in capitals, such as MMRole, stays."""
    return title if title[1:2].isupper() else title[:1].lower() + title[1:]


def number(value: float | int | None, digits: int = 3) -> str:
    """A number with `digits` decimals; a dash for None and non-finite values; never "-0.000"."""
    if value is None or not math.isfinite(value):
        return "–"
    text = f"{value:,.{digits}f}"
    return text.replace("-", "−") if text.strip("-0.,") else text.lstrip("-")
