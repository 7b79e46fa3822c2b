"""Writes the report of a run: one HTML file that needs nothing else, and the same figures as PNG files.

The page carries its style, figures and pictures inside, runs no script, and forbids the browser to load anything
(content security policy), so that it can be mailed or archived. Text from the run (answers, prompts, names) is escaped.

To see it as a picture: `chromium --headless --no-sandbox --screenshot=report.png --window-size=1280,4000 report.html`;
as it prints: `chromium --headless --no-sandbox --print-to-pdf=report.pdf report.html`.
"""

import base64
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from lam_jax.report import comparison, evaluations, figure, names, plots, reach_tables
from lam_jax.report.current import MARK, PAGE, sources_hash
from lam_jax.report.headlines import headlines
from lam_jax.report.run_files import RunFiles, read_run
from lam_jax.report.schema import Row, RunFilesError

PNG = b"\x89PNG\r\n\x1a\n"
TITLES: dict[tuple[str, ...], str] = {
    ("latent",): "Latent actions",
    ("hybrid",): "Latent actions, hybrid",
    ("token",): "Token actions",
    ("latent", "hybrid"): "Latent actions, hybrid ones beside them",
}
LATENT_SCALARS = (
    "random_action_kl_after_stage4",
    "random_action_kl_after_sft",
    "cloning_accuracy",
    "majority_share",
)


def write_report(run_dir: Path) -> Path:
    """Reads `results.json`, `metrics.jsonl` and `samples/*.png` of a run; writes `report.html` and `plots/*.png`.

    A section that the run has no numbers for (one task, one action space, interrupted RL) says so and stays empty.

    Returns:
        The path of `report.html`.

    Raises:
        RunFilesError: `results.json` is missing, not JSON, or has a wrong value; the message names file and key.
    """
    made_of = sources_hash(run_dir)
    run = read_run(run_dir)
    context = _context(run) | {"mark": MARK, "made_of": made_of}
    page = _environment().get_template("report.html").render(context | _figures(run))
    target = run_dir / PAGE
    # A reader may have the old page open, and a full disk must not leave half a page: write beside it, then rename.
    partial = target.with_suffix(".html.partial")
    partial.write_text(page, encoding="utf-8")
    partial.replace(target)
    return target


def _figures(run: RunFiles) -> Row:
    """Draws every figure, writes the light ones to `plots/`, and returns both as data addresses by section."""
    folder = run.folder / "plots"
    folder.mkdir(exist_ok=True)
    sections: dict[str, list[Row]] = {}
    for plot in plots.all_plots(run.results, run.metrics):
        name = re.sub(r"[^A-Za-z0-9_-]", "_", plot.name)
        light, dark = figure.render(plot, figure.LIGHT), figure.render(plot, figure.DARK)
        (folder / f"{name}.png").write_bytes(light)
        embedded = {"caption": plot.caption, "light": _data_address(light), "dark": _data_address(dark)}
        sections.setdefault(plot.section, []).append(embedded)
    tasks = comparison.tasks_of(run.results, "scores", "gain", "speed", "samples")
    curves = [section.removeprefix("rl_") for section in sections if section.startswith("rl_")]
    return {"figures": sections, "rl_tasks": list(dict.fromkeys([*tasks, *curves]))}


def _data_address(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode("ascii")


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("lam_jax.report", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters.update(
        num=_num,
        human=names.human_name,
        setting=_setting,
        errors=comparison.standard_errors,
        verdict=comparison.gain_verdict,
    )
    return environment


def _num(value: Any, digits: int = 3) -> Markup:
    """A number for reading, with the exact one beside it for machines: `<data value="0.94123">0.941</data>`."""
    if isinstance(value, str):
        return escape(value)
    shown = names.number(value, digits)
    return Markup("{}").format(shown) if shown == "–" else Markup('<data value="{}">{}</data>').format(value, shown)


def _setting(value: Any) -> str:
    return value if isinstance(value, str) else "–" if value is None else str(value)


def _flat(settings: Row, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in settings.items():
        if isinstance(value, list) and any(isinstance(item, dict) for item in value):
            value = {str(index): item for index, item in enumerate(value)}
        if isinstance(value, dict) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _samples(run: RunFiles) -> list[Row]:
    """Sample conversations with the picture inlined and each token paired with its action (None in the token space)."""
    views = []
    for index, sample in enumerate(run.results.get("samples") or []):
        answers = []
        for answer in sample["answers"]:
            tokens, actions = answer.get("tokens"), answer.get("actions")
            coloured = list(zip(tokens, actions, strict=True)) if tokens and actions else None
            answers.append({**answer, "coloured": coloured})
        answers.sort(key=lambda answer: (names.SPACES.index(answer["space"]), answer.get("phase") != "sft"))
        views.append({**sample, "picture": _picture(run.folder, sample.get("image"), index), "answers": answers})
    return views


def _picture(folder: Path, image: str | None, index: int) -> str | None:
    """The picture as a data address; None for a row without one or whose file is gone.

    A results.json from elsewhere must not make the report publish other files: only PNGs inside the folder are read.
    """
    if image is None:
        return None
    path = (folder / image).resolve()
    if not path.is_relative_to(folder.resolve()):
        raise RunFilesError(
            f"{folder / 'results.json'}: samples[{index}].image: found {image!r}, "
            "expected a path inside the run folder."
        )
    if not path.is_file():
        return None
    content = path.read_bytes()
    if not content.startswith(PNG):
        raise RunFilesError(
            f"{path}: named by results.json: samples[{index}].image, "
            "found a file that is no PNG, expected a PNG picture."
        )
    return _data_address(content)


def _code_colours(results: Row) -> list[str]:
    """One colour per code: as many as the usage chart has, or as the highest action in the samples asks for."""
    highest = max(
        (code for sample in results.get("samples") or [] for a in sample["answers"] for code in a.get("actions") or ()),
        default=-1,
    )
    latent = results.get("latent") or {}
    codes = max(highest + 1, len(latent.get("usage") or ()), len(latent.get("usage_text_only") or ()))
    return [plots.code_colour(code, codes) for code in range(codes)]


def _evaluation(evaluation: Row) -> Row:
    """An evaluation as the page shows it: agents by their numbers, dimensions of each task and set as one table."""
    agents = evaluations.agents_of(evaluation)
    entries = [{**e, "number": agents.index(e["agent"]) + 1} for e in evaluation["scores"]]
    tables = []
    for key in dict.fromkeys((e.get("task"), e["set"]) for e in entries):
        own = [e for e in entries if (e.get("task"), e["set"]) == key and e.get("dimensions")]
        if own:
            rows = list(dict.fromkeys(name for e in own for name in e["dimensions"]))
            tables.append({"title": own[0]["title"], "entries": own, "rows": rows})
    return {
        "name": evaluation["name"],
        "drawn": evaluations.drawn(evaluation),
        "agents": [evaluations.describe_agent(evaluation, name) for name in agents],
        "entries": [
            e | {"failed": evaluations.failed_kinds(e), "spread": evaluations.diversity_of(e)} for e in entries
        ],
        "diversity_title": " or ".join(sorted({evaluations.diversity_of(e)[0] for e in entries})),
        "tables": tables,
        "comparisons": [
            row
            | {"first_number": agents.index(row["first"]) + 1}
            | {"second_name": row.get("second_evaluation") or agents.index(row["second"]) + 1}
            for row in evaluation.get("comparisons") or []
        ],
    }


def _context(run: RunFiles) -> Row:
    results = run.results
    compared = comparison.comparisons(results)
    latent = results.get("latent") or {}
    kinds = [(kind, latent[kind]) for kind in ("image_text", "text_only") if latent.get(kind)]
    scored = comparison.tasks_of(results, "scores")
    phases = results.get("phases") or []
    spaces = comparison.spaces_of(results)
    config = results.get("config") or {}
    samples = _samples(run)
    return {
        "title": TITLES.get(tuple(spaces), "Latent actions against tokens"),
        "recipe": config.get("name") if isinstance(config.get("name"), str) else None,
        "spaces": spaces,
        "against_token": comparison.against_token(spaces),
        "counted": bool(results.get("rl")),
        "coded": any(answer["coloured"] for sample in samples for answer in sample["answers"]),
        "titles": names.Titles.of(results),
        "headlines": headlines(results),
        "compared": {task: [row for row in compared if row.task == task] for task in scored},
        "dimensions": comparison.dimension_tables(results),
        "diversity": comparison.diversity_rows(results),
        "diversity_title": comparison.diversity_title(results),
        "evaluations": [_evaluation(evaluation) for evaluation in run.evaluations],
        "gain": results.get("gain") or [],
        "speed": comparison.speed_tables(results),
        "base": results.get("base") or {},
        "reach": reach_tables.emitted(results),
        "reach_scores": reach_tables.scores(results),
        "reach_sizes": reach_tables.sizes(results),
        "latent_scalars": [(key, latent[key]) for key in LATENT_SCALARS if latent.get(key) is not None],
        "health_kinds": [kind for kind, _ in kinds],
        "health": [
            (name, [values.get(name) for _, values in kinds]) for name in dict.fromkeys(n for _, v in kinds for n in v)
        ],
        "phases": phases,
        "total_seconds": sum(phase["seconds"] for phase in phases),
        "compile_seconds": sum(phase.get("compile_seconds") or 0.0 for phase in phases),
        "longest": max((phase["seconds"] for phase in phases), default=0.0) or 1.0,
        "fluency": results.get("fluency"),
        "samples": samples,
        "code_colours": _code_colours(results),
        "config": list(_flat(config)),
        "environment": list(_flat(results.get("environment") or {})),
    }
