"""experiments/published: each file is the experiment that its name says, its commands run it, and the table has it."""

import importlib.util
import inspect
import json
import math
import re
import shlex
from pathlib import Path

import pytest

from experiments.launch import hosts
from lam_jax.cli.recipes import recipe_function
from lam_jax.cli.train import parse
from lam_jax.formats.hf_config import to_hf
from lam_jax.models.qwen2_5_vl.presets import PRESETS
from lam_jax.parallel.choose_mesh import choose_mesh
from lam_jax.pipeline import choose
from lam_jax.recipe import Recipe
from tests.recipes.shipped import DIFFERENCES, REAL, published_differences

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "experiments" / "published"
FILES = sorted(path for path in FOLDER.glob("*.py") if path.stem != "__init__")
NAME = re.compile(
    r"(mmrole|pcogalign)_([37]b)_(grpo|dr_grpo|dapo|bnpo)_(latent|token)(?:_without_(\w+))?(?:_codes_(\d+))?"
)
# By hand, from the paper's tables: ID and OOD, or LS1 and LS2.
FIGURES = {
    ("mmrole", "grpo", "token", None): (".838", ".796"),
    ("mmrole", "grpo", "latent", None): (".949", ".915"),
    ("mmrole", "dr_grpo", "token", None): (".867", ".823"),
    ("mmrole", "dr_grpo", "latent", None): (".953", ".916"),
    ("pcogalign", "grpo", "token", None): (".845", ".845"),
    ("pcogalign", "grpo", "latent", None): (".871", ".837"),
    ("pcogalign", "dr_grpo", "token", None): (".835", ".834"),
    ("pcogalign", "dr_grpo", "latent", None): (".874", ".840"),
    ("mmrole", "grpo", "latent", "cycle"): (".921", ".878"),
    ("mmrole", "grpo", "latent", "projector"): (".944", ".901"),
    ("mmrole", "grpo", "latent", "text_only"): (".932", ".861"),
    ("pcogalign", "grpo", "latent", "cycle"): (".858", "(.823)"),
    ("pcogalign", "grpo", "latent", "projector"): (".858", "(.817)"),
    ("pcogalign", "grpo", "latent", "text_only"): (".851", "(.816)"),
}
DIVERSITY = {
    ("mmrole", "grpo", "token"): "1.079",
    ("mmrole", "grpo", "latent"): "1.248",
    ("mmrole", "dapo", "token"): "1.073",
    ("mmrole", "dapo", "latent"): "1.253",
    ("pcogalign", "grpo", "token"): "1.042",
    ("pcogalign", "grpo", "latent"): "1.191",
    ("pcogalign", "dapo", "token"): "1.038",
    ("pcogalign", "dapo", "latent"): "1.127",
}
# Clipping, advantages by the group's spread, normaliser: method.md section 4.
ALGORITHM = {
    "grpo": (0.2, "group_std", "sequence_mean"),
    "dr_grpo": (0.2, "group_mean", "max_length"),
    "dapo": (0.28, "group_std", "global_tokens"),
    "bnpo": (0.2, "group_std", "local_tokens"),
}


def made(path: Path, **more) -> Recipe:
    return recipe_function(str(path))(**{**REAL, **more})


def parts(path: Path) -> tuple[str, str, str, str, str | None, str | None]:
    found = NAME.fullmatch(path.stem)
    assert found, f"{path.name}: a name that says nothing"
    return found.groups()  # pyright: ignore[reportReturnType]


def test_every_published_experiment_has_a_file():
    names = {path.stem for path in FILES}
    tasks, spaces = ("mmrole", "pcogalign"), ("token", "latent")
    expected = {f"{t}_{s}_{a}_{x}" for t in tasks for s in ("3b", "7b") for a in ALGORITHM for x in spaces}
    ablated = ("without_cycle", "without_projector", "without_text_only", "codes_64", "codes_256")
    expected |= {f"{t}_3b_grpo_latent_{change}" for t in tasks for change in ablated}
    assert names == expected
    assert len(names) == 42


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_an_experiment_is_what_its_name_says(path):
    task, size, algorithm, space, part, codes = parts(path)
    recipe = made(path)
    assert recipe.name == " ".join(
        [task, size, algorithm, space]
        + ([f"without {part.replace('_', '-')}"] if part else [])
        + ([f"with {codes} codes"] if codes else [])
    )
    assert ([t.name for t in recipe.tasks], recipe.spaces) == ([task], (space,))
    found = recipe.rl.algorithm
    assert (found.name, found.clip_high, found.advantage, found.normaliser) == (algorithm, *ALGORITHM[algorithm])
    assert (recipe.method.cycle, recipe.method.project, recipe.method.text_only) == (
        part != "cycle",
        part != "projector",
        part != "text_only",
    )
    assert recipe.latent.codes == int(codes or 128)
    # The paper's text; the lengths are ours.
    assert (recipe.method.sft, recipe.method.response_only) == ("released", True)
    assert (recipe.rl.steps, recipe.rl.prompts, recipe.rl.samples, recipe.rl.algorithm.beta) == (100, 4, 8, 0.01)
    assert recipe.tasks[0].prompt_lengths[-1] == {"mmrole": 3072, "pcogalign": 1024}[task]
    assert Recipe.from_json(recipe.to_json()) == recipe


def test_a_setting_that_moves_shows():
    """Two whole golden files are in test_golden.py; of the others what differs from their task's."""
    found = json.loads(DIFFERENCES.read_text())
    assert found == published_differences(), "if that is meant: python -m tests.recipes.shipped"
    assert found["mmrole_3b_grpo_latent"] == []


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_the_commands_of_a_file_run_it(path, capsys):
    text = inspect.getdoc(_module(path))
    joined = re.sub(r"\s*\\\n\s*", " ", text or "")
    lines = [line.strip() for line in joined.splitlines() if line.startswith("    ")]
    assert [line.split()[0] for line in lines] == ["experiments/launch/one_host.sh", "python", "sbatch"]
    for line in lines:
        words = shlex.split(line)
        command = words[words.index("lam-jax") :]
        assert command[:3] == ["lam-jax", "train", f"experiments/published/{path.name}"]
        recipe, run = parse(str(path), command[3:])
        assert run.out == Path("runs") / path.stem
        assert f"-{parts(path)[1].upper()}-" in recipe.model.folder
    launcher = shlex.split(lines[1])
    assert launcher[1:3] == ["-m", "experiments.launch.hosts"]
    assert hosts.main([*launcher[3 : launcher.index("--")], "--dry-run", *launcher[launcher.index("--") :]]) == 0
    assert capsys.readouterr().out.count("ssh ") == 4


def test_the_table_has_each_file_with_its_figures():
    table = (FOLDER / "README.md").read_text()
    rows = dict(re.findall(r"^\| \[(\w+)\.py\]\(\w+\.py\) \|[^|]*\| ([^|]*) \|$", table, re.MULTILINE))
    assert sorted(rows) == [path.stem for path in FILES]
    for path in FILES:
        task, size, algorithm, space, part, codes = parts(path)
        first, second = {"mmrole": ("ID", "OOD"), "pcogalign": ("LS1", "LS2")}[task]
        expected = []
        if size == "3b" and not codes:
            if scores := FIGURES.get((task, algorithm, space, part)):
                expected.append(f"{first} {scores[0]}, {second} {scores[1]}")
            if not part and (diversity := DIVERSITY.get((task, algorithm, space))):
                expected.append(f"diversity {diversity}")
        assert rows[path.stem] == ("; ".join(expected) or "none in our notes")
        assert f"The paper: {rows[path.stem]}." in (inspect.getdoc(_module(path)) or "")


def test_a_model_of_another_size_is_refused(tmp_path):
    path = FOLDER / "mmrole_7b_grpo_latent.py"
    (tmp_path / "config.json").write_text(json.dumps(to_hf(PRESETS["qwen2_5_vl_3b"], "bfloat16")))
    with pytest.raises(ValueError, match=r"width 2048 with 36 blocks, expected that of Qwen2.5-VL-7B, 3584 with 28"):
        made(path, **{"model": str(tmp_path)})
    assert made(FOLDER / "mmrole_3b_grpo_latent.py", **{"model": str(tmp_path)}).model.folder == str(tmp_path)


@pytest.mark.parametrize("size", ["3b", "7b"])
def test_the_machines_of_the_commands_have_a_mesh(size, monkeypatch):
    monkeypatch.setattr(choose, "model_config", lambda model: PRESETS[f"qwen2_5_vl_{size}"])
    text = (FOLDER / "README.md").read_text()
    for space in ("latent", "token"):
        load = choose.load_of(made(FOLDER / f"mmrole_{size}_grpo_{space}.py"))
        for devices, memory in ((16, 15.75), (8, 75.0)):
            shape = choose_mesh(load, devices, int(memory * 2**30)).shape
            assert math.prod(shape) == devices
            assert " x ".join(map(str, shape)) in text


def _module(path: Path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
