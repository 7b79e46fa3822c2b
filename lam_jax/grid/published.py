"""The paper's figures (method.md section 5), to stand beside one's own: Qwen2.5-VL-3B, its judge's ratio."""

from collections.abc import Mapping, Sequence

SOURCE = "Qwen2.5-VL-3B on MMRole and PCogAlignBench"
# The benchmark that a task is, or stands for in the built-in world.
BENCHMARKS = {"mmrole": "MMRole", "role_play": "MMRole", "pcogalign": "PCogAlign", "help": "PCogAlign"}
BUILT_IN = ("role_play", "help")
TEMPERATURE = 0.1
Split = tuple[str, str]
PLACES: Sequence[Split] = (("MMRole", "id"), ("MMRole", "ood"), ("PCogAlign", "id"), ("PCogAlign", "ood"))
# By (algorithm, space, part that is left out), in the order of PLACES; "sft": fine-tuned alone.
SCORES: Mapping[tuple[str, str, str], Sequence[float]] = {
    ("sft", "token", ""): (0.843, 0.809, 0.808, 0.810),
    ("grpo", "token", ""): (0.838, 0.796, 0.845, 0.845),
    ("grpo", "latent", ""): (0.949, 0.915, 0.871, 0.837),
    ("dr_grpo", "token", ""): (0.867, 0.823, 0.835, 0.834),
    ("dr_grpo", "latent", ""): (0.953, 0.916, 0.874, 0.840),
    ("grpo", "latent", "cycle"): (0.921, 0.878, 0.858, 0.823),
    ("grpo", "latent", "project"): (0.944, 0.901, 0.858, 0.817),
    ("grpo", "latent", "text_only"): (0.932, 0.861, 0.851, 0.816),
}
# By (benchmark, algorithm, space): of rollouts, embedded by BGE-M3.
DIVERSITY: Mapping[tuple[str, str, str], float] = {
    ("MMRole", "grpo", "token"): 1.079,
    ("MMRole", "grpo", "latent"): 1.248,
    ("MMRole", "dapo", "token"): 1.073,
    ("MMRole", "dapo", "latent"): 1.253,
    ("PCogAlign", "grpo", "token"): 1.042,
    ("PCogAlign", "grpo", "latent"): 1.191,
    ("PCogAlign", "dapo", "token"): 1.038,
    ("PCogAlign", "dapo", "latent"): 1.127,
}
# Seconds latent / token, by the name of the median in a run's speed.
COST: Mapping[str, float] = {"step_s": 1.08, "update_s": 0.86, "rollout_s": 1.13}


def published_score(
    task: str, split: str, temperature: float, phase: str, space: str, algorithm: str, left_out: Sequence[str]
) -> float | None:
    """The paper's score of such an agent; None: it has none."""
    place = BENCHMARKS.get(task, ""), split
    if place not in PLACES or abs(temperature - TEMPERATURE) > 1e-9 or len(left_out) > 1:
        return None
    scores = SCORES.get(("sft" if phase == "sft" else algorithm, space, "".join(left_out)))
    return None if scores is None else scores[PLACES.index(place)]


def published_diversity(task: str, phase: str, space: str, algorithm: str) -> float | None:
    """The paper's diversity of such an agent after RL; None: it has none."""
    return DIVERSITY.get((BENCHMARKS.get(task, ""), algorithm, space)) if phase == "rl" else None
