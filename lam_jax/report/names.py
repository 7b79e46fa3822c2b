"""How the report words things: names of tasks, splits, phases and measures, and how a number is printed."""

import math

SPACES = ("latent", "token")
TASK_NAMES = {"role_play": "Role play", "help": "Personalised help"}
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
SPLIT_NAMES = {
    ("role_play", "id"): "ID: unseen scenes",
    ("role_play", "ood"): "OOD: held-out characters",
    ("help", "id"): "LS1: known role sets",
    ("help", "ood"): "LS2: new role sets",
}


def human_name(key: str) -> str:
    """A name for a task, metric or dimension key: the known ones by hand, any other by its words."""
    return TASK_NAMES.get(key) or MEASURE_NAMES.get(key) or (key[:1].upper() + key[1:]).replace("_", " ")


def phase_name(phase: str) -> str:
    """`stage3_joint` as "Stage 3: joint", `rl_latent_help` as "RL, latent: personalised help"."""
    head, _, rest = phase.partition("_")
    if head.startswith("stage") and head[5:].isdigit() and rest:
        return f"Stage {head[5:]}: {rest.replace('_', ' ')}"
    space, _, task = rest.partition("_")
    if head in ("sft", "rl") and space in SPACES and task:
        return f"{head.upper()}, {space}: {human_name(task).lower()}"
    return human_name(phase)


def split_name(task: str, split: str) -> str:
    """What a test split of a task holds, in words."""
    return SPLIT_NAMES.get((task, split), split.upper())


def number(value: float | int | None, digits: int = 3) -> str:
    """A number with `digits` decimals; a dash for None and non-finite values; never "-0.000"."""
    if value is None or not math.isfinite(value):
        return "–"
    text = f"{value:,.{digits}f}"
    return text.replace("-", "−") if text.strip("-0.,") else text.lstrip("-")
