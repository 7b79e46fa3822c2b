"""Every shipped recipe with fixed arguments, and its golden file: `python -m tests.recipes.shipped` writes them all."""

from pathlib import Path

from lam_jax.recipe import Recipe
from lam_jax.recipes import ablations, demo, official, own, paper

GOLDEN = Path(__file__).parent / "golden"
REAL = {
    "model": "models/qwen",
    "paired": "paired.json",
    "text_only": "text.json",
    "data": "raw",
    "images": "images",
    "judge": "http://localhost:8000/v1",
    "judge_model": "judge",
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
    "without_cycle": ablations.without(demo.recipe(), "cycle"),
    "without_projector": ablations.without(demo.recipe(), "projector"),
    "without_text_only": ablations.without(demo.recipe(), "text-only"),
    "codes_16": ablations.with_codes(demo.recipe(), 16),
}

if __name__ == "__main__":
    GOLDEN.mkdir(exist_ok=True)
    for name, recipe in SHIPPED.items():
        (GOLDEN / f"{name}.json").write_text(recipe.to_json(), encoding="utf-8")
