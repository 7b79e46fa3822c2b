"""The model card of an exported agent, in the form that the Hugging Face hub reads."""

import functools
import math
from typing import Any

from huggingface_hub import EvalResult, ModelCardData
from jinja2 import Environment, PackageLoader, StrictUndefined

import lam_jax
from lam_jax.agents.run_folder import RunAgent
from lam_jax.models.families import Family
from lam_jax.recipe import StageSettings
from lam_jax.report.names import Titles, human_name, number
from lam_jax.report.run_files import read_results
from lam_jax.report.schema import Row
from lam_jax.train.optimiser import OptimiserConfig
from lam_jax.values import FUNCTION, TYPE, encode

RESULTS = "results.json"
TAGS = ("reinforcement-learning", "arxiv:2601.07516")
_LONGEST = 40  # letters of a text in a description; hashes are longer


def model_card(agent: RunAgent, name: str, family: Family) -> str:
    """The text of README.md: front matter, what it is, how to use it, data, recipe, scores, limits.

    Args:
        agent: what is exported.
        name: of the folder, the card's title.
        family: of the backbone.

    Raises:
        RunFilesError: the run's results.json is damaged.
    """
    file = agent.path / RESULTS
    results = read_results(file) if file.is_file() else {}
    titles = Titles.of(results)
    rows = scores_of(agent, results)
    gains = [g for g in results.get("gain", ()) if (g["task"], g["space"]) == (agent.task.name, agent.space.name)]
    text = (
        _environment()
        .get_template("card.md.jinja")
        .render(
            front_matter=_front_matter(agent, name, family, titles, rows).to_yaml().strip(),
            name=name,
            family=family.title,
            agent=agent,
            settings=agent.settings,
            recipe=agent.recipe,
            task=agent.task,
            task_title=agent.task.title,
            data=data_of(agent),
            stages=stages_of(agent),
            rows=rows,
            dimensions=sorted({d for row in rows for d in row["dimensions"]}),
            gain=gains[0] if gains and agent.is_complete else None,
            environment=results.get("environment", {}),
            titles=titles,
            reward=describe(agent.task.reward),
            version=lam_jax.__version__,
        )
    )
    return text.rstrip() + "\n"


@functools.cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("lam_jax.agents", "templates"),
        undefined=StrictUndefined,
        autoescape=False,  # Markdown
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"number": number, "human": human_name, "describe": describe, "cell": _cell}
    return environment


def scores_of(agent: RunAgent, results: Row) -> list[Row]:
    """The scores of the exported agent, and of SFT before it, in the order in which they were measured."""
    phases = {"rl": ("sft", "rl"), "sft": ("sft",)}.get(agent.phase.partition("_")[0], ())
    own = (agent.task.name, agent.space.name)
    return [r for r in results.get("scores", ()) if (r["task"], r["space"]) == own and r["phase"] in phases]


def _front_matter(agent: RunAgent, name: str, family: Family, titles: Titles, rows: list[Row]) -> ModelCardData:
    task = agent.task.name
    last = "rl" if agent.is_complete else "sft"
    found = [
        EvalResult(
            task_type="image-text-to-text",
            dataset_type=task,
            dataset_name=agent.task.title,
            dataset_split=row["split"],
            metric_type="score",
            metric_name=f"score, {titles.short_split(task, row['split'])}, temperature {row['temperature']:g}",
            metric_value=round(row["mean"], 4),
        )
        for row in rows
        if row["phase"] == last and math.isfinite(row["mean"])
    ]
    coded = agent.space.coded
    return ModelCardData(
        library_name="lam_jax" if coded else "transformers",
        pipeline_tag="image-text-to-text",
        tags=["lam_jax", family.name, *TAGS, *(["latent-actions"] if coded else [])],
        **({"model_name": name, "eval_results": found} if found else {}),
    )


def data_of(agent: RunAgent) -> list[tuple[str, str]]:
    """What each part of the data was for, and where it came from."""
    recipe = agent.recipe
    found = [("image-text rows, stages 1 to 4", describe(recipe.paired.rows))]
    if recipe.text_only is not None:
        found.append(("text-only rows, stages 3 and 4", describe(recipe.text_only.rows)))
    found.append((f"rows of the task, stages {'5 and 6' if agent.is_complete else '5'}", describe(agent.task.rows)))
    return found if agent.space.coded else found[-1:]


def stages_of(agent: RunAgent) -> list[tuple[str, str]]:
    """Each stage that trained the agent, and its settings in a few words."""
    recipe = agent.recipe
    named = [("1 inverse dynamics", recipe.inverse), ("2 projectors", recipe.projector)]
    named += [("3 joint", recipe.joint), ("4 cloning", recipe.cloning)]
    stages = [(name, _stage(settings)) for name, settings in named] if agent.space.coded else []
    stages = stages[: len(agent.phases)]
    if agent.phase.startswith(("sft", "rl")):
        stages.append(("5 SFT", _stage(recipe.sft)))
    if agent.is_complete:
        rl = recipe.rl
        algorithm = rl.algorithm_of(agent.task.name)
        settings = f"{algorithm.name}, {rl.steps} rollouts of {rl.prompts} prompts x {rl.samples} samples"
        settings += f", {rl.epochs * rl.mini_batches} update(s) each, {_rate(rl.optimisers[agent.space.name])}"
        stages.append(("6 RL", settings))
    return stages


def _stage(settings: StageSettings) -> str:
    long = f"{settings.steps} steps" if settings.steps is not None else f"{settings.epochs:g} epoch(s)"
    return f"{long} of {settings.rows} rows, {_rate(settings.optimiser)}"


def _rate(optimiser: OptimiserConfig) -> str:
    return f"AdamW, learning rate {optimiser.lr:g}, {optimiser.schedule}"


def describe(value: Any) -> str:
    """A row source or a reward by its class and its short texts; of paths the last part, they name a machine's."""
    encoded = encode(value)
    if not isinstance(encoded, dict):
        return _short(encoded)
    if FUNCTION in encoded:
        return _short(encoded)
    name = encoded.get(TYPE, "").partition(":")[2]
    texts = {key: _short(item) for key, item in encoded.items() if key not in (TYPE, "parse")}
    parts = [f"{key} {text}" for key, text in texts.items() if text]
    return f"{name} ({', '.join(parts)})" if parts else name


def _short(item: Any) -> str:
    """A text, or a function's name; empty for anything else and for what is long, such as a hash."""
    if isinstance(item, dict) and FUNCTION in item:
        item = item[FUNCTION].partition(":")[2]
    text = item.rpartition("/")[2] if isinstance(item, str) else ""
    return text if len(text) <= _LONGEST else ""


def _cell(text: str) -> str:
    """A text in a table of Markdown."""
    return text.replace("|", "\\|")
