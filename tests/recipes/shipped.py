"""Every shipped recipe with fixed arguments, and its golden file: `python -m tests.recipes.shipped` writes them all."""

import json
from pathlib import Path

from lam_jax.cli.recipes import recipe_function
from lam_jax.recipe import Recipe
from lam_jax.recipes import ablations, demo, mmrole, official, own, paper, pcogalign
from lam_jax.values import differences

GOLDEN = Path(__file__).parent / "golden"
EXPERIMENTS = Path(__file__).parents[2] / "experiments" / "published"
DIFFERENCES = Path(__file__).parent / "published.json"  # of the experiments from those of 3B, GRPO, latent
REAL = {
    "model": "models/qwen",
    "paired": "paired.json",
    "text": "text.json",
    "raw": "raw",
    "images": "images",
    "judge": "http://localhost:8000/v1",
    "judge_model": "judge",
    "evaluation_judge_model": "examiner",
}
SHIPPED: dict[str, Recipe] = {
    "demo": demo.recipe(),
    "demo_grpo_help": demo.recipe(seed=3, task=("help",), algorithm="grpo"),
    "own": own.recipe(task="task.json", paired="paired.json", text="text.json"),
    "own_model": own.recipe(task="task.json", paired="paired.json", text="text.json", model="models/qwen"),
    "own_sft": own.recipe(task="task.json", paired="paired.json", sft="answered.json"),
    "own_without_text": own.recipe(task="task.json", paired="paired.json", algorithm="dapo"),
    "paper": paper.recipe(**REAL),
    "paper_pcogalign_dapo": paper.recipe(**REAL, task="pcogalign", algorithm="dapo"),
    "official": official.recipe(**REAL),
    "official_plain": official.recipe(**REAL, token_rollouts="plain"),
    "mmrole": mmrole.recipe(**REAL),
    "mmrole_dapo": mmrole.recipe(**REAL, algorithm="dapo", method="paper"),
    "mmrole_tiny": mmrole.recipe(**{**REAL, "model": None, "text": None}, preset="tiny", space=("latent",)),
    "pcogalign": pcogalign.recipe(**REAL),
    "without_cycle": ablations.without(demo.recipe(), "cycle"),
    "without_projector": ablations.without(demo.recipe(), "projector"),
    "without_text_only": ablations.without(demo.recipe(), "text-only"),
    "codes_16": ablations.with_codes(demo.recipe(), 16),
}


def experiment(name: str) -> Recipe:
    return recipe_function(str(EXPERIMENTS / f"{name}.py"))(**REAL)


BASES = {task: f"{task}_3b_grpo_latent" for task in ("mmrole", "pcogalign")}
SHIPPED |= {name: experiment(name) for name in BASES.values()}


def published_differences() -> dict[str, list[str]]:
    """Of each experiment what differs from its task's base."""
    names = sorted(path.stem for path in EXPERIMENTS.glob("*.py") if path.stem != "__init__")
    bases = {task: json.loads(SHIPPED[name].to_json()) for task, name in BASES.items()}
    return {name: differences(json.loads(experiment(name).to_json()), bases[name.split("_")[0]]) for name in names}


if __name__ == "__main__":
    GOLDEN.mkdir(exist_ok=True)
    for name, recipe in SHIPPED.items():
        (GOLDEN / f"{name}.json").write_text(recipe.to_json(), encoding="utf-8")
    DIFFERENCES.write_text(json.dumps(published_differences(), indent=1) + "\n", encoding="utf-8")
