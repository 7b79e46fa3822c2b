"""The picture game with a few steps a stage and a random model of two layers.

    python -m tests.end_to_end.quick_game OUT

OUT/model is the model, OUT/maze a run of the game in one answer in every space, OUT/maze_steps stages 5 and 6 of the
game turn by turn in the token space.
"""

import dataclasses
import json
import sys
from pathlib import Path

import lam_jax
from lam_jax.formats.save_backbone import save_backbone
from lam_jax.hosts.start import start_process
from lam_jax.latent.config import LatentConfig
from lam_jax.models.qwen2_5_vl.config import QwenConfig, TextConfig, VisionConfig
from lam_jax.recipe import Model, Recipe
from lam_jax.recipes.demo import TaskName, recipe
from lam_jax.recipes.quick import quick
from lam_jax.scenes.builder import GENERATORS, SceneSizes
from lam_jax.scenes.maze_rows import SPLITS, MazeSizes
from lam_jax.train.spaces import TOKEN, SpaceName
from tests.tiny import draw_agent

ASSETS = Path(lam_jax.__file__).parent / "scenes" / "assets" / "base_model"
CONFIG = QwenConfig(
    text=TextConfig(2048, width=32, hidden=48, layers=2, heads=4, kv_heads=2, mrope_sections=(1, 1, 2)),
    vision=VisionConfig(16, hidden=24, layers=2, heads=2, full_layers=(1,), window=56, out_width=32),
    pad_id=2041,
    eos_id=2043,
    vision_start_id=2044,
    vision_end_id=2045,
    image_id=2046,
    video_id=2047,
)
LATENT = LatentConfig(codes=8, inverse_layers=1, policy_layers=1, merge_layers=1)


def write_model(folder: Path) -> Path:
    """A random model with the built-in tokenizer."""
    files = {name: ASSETS / name for name in ("tokenizer.json", "tokenizer_config.json")}
    save_backbone(draw_agent(CONFIG, LATENT).backbone, folder, files=files)
    return folder


def quick_game(task: TaskName, spaces: tuple[SpaceName, ...], model: Path) -> Recipe:
    """Rollouts, validation and scores are two answers to two prompts each, so that they are one program."""
    sizes = SceneSizes(**{config: dict.fromkeys(splits, 16) for config, splits in GENERATORS.items()})
    whole = recipe(3, (task,), sizes=sizes, space=spaces, maze_sizes=MazeSizes(dict.fromkeys(SPLITS, 16)))
    short = quick(dataclasses.replace(whole, model=Model(str(model)), latent=LATENT))
    evaluation = dataclasses.replace(
        short.evaluation, prompts=2, gain_prompts=2, gain_samples=2, batch=2, held_out=4, reach=None
    )
    return dataclasses.replace(short, evaluation=evaluation, rl=dataclasses.replace(short.rl, samples=2))


def run(out: Path) -> None:
    """Both runs; scores of the second after stages 5 and 6 go into OUT/scores.json."""
    start_process()
    model = write_model(out / "model")
    lam_jax.run_recipe(quick_game("maze", ("latent", "token", "hybrid"), model), out / "maze")
    recipe = quick_game("maze_steps", ("token",), model)
    with lam_jax.open_run(recipe, out / "maze_steps") as (opened, resources):
        (task,) = recipe.tasks
        agent = lam_jax.fine_tune(opened, resources, task, TOKEN, resources.base_agent())
        scores = [lam_jax.evaluate(opened, resources, task, TOKEN, agent, "sft")]
        agent, _ = lam_jax.reinforce(opened, resources, task, TOKEN, agent)
        scores.append(lam_jax.evaluate(opened, resources, task, TOKEN, agent, "rl"))
    (out / "scores.json").write_text(json.dumps(scores))


if __name__ == "__main__":
    run(Path(sys.argv[1]))
