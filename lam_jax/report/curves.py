"""Learning curves from `metrics.jsonl`: RL by task, losses by stage, codebook health over the stages."""

from collections.abc import Callable, Iterable
from itertools import pairwise

from matplotlib.axes import Axes
from matplotlib.ticker import EngFormatter

from lam_jax.report.figure import SPACE_COLOURS, Plot, Theme, legend, line, plain
from lam_jax.report.names import SPACES, Titles
from lam_jax.report.run_files import curve
from lam_jax.report.schema import Row

LINE_COLOURS = ("#3b82d6", "#dd7f2a", "#3f9d6b", "#b45ab0", "#8a8f98", "#c9a227")
ROW_KINDS = {"": "image-text", "text": "text-only"}  # what a health metric is about, by the prefix of its name
VALIDATION = "eval_"  # prefix of the names that evaluations on the validation split get in metrics.jsonl
REWARD = ("reward_mean", "reward")
RL_CURVES = (
    ("reward", "Mean reward", REWARD),
    ("kl", "KL to the SFT policy [nat]", ("kl", "kl_ref", "kl_mean")),
    ("entropy", "Entropy of the actions [nat]", ("entropy", "entropy_mean")),
    ("code_entropy", "Entropy of the codes [nat]", ("code_entropy",)),
    ("emission_entropy", "Entropy of the tokens under them [nat]", ("emission_entropy",)),
    ("clip_fraction", "Share of clipped steps", ("clip_fraction", "clip_frac")),
    ("length", "Answer length [tokens]", ("length_mean", "length", "completion_length")),
    ("validation", "Score on the validation split", (f"{VALIDATION}score",)),
)
COSTS = (
    ("samples", "Mean reward by samples", "samples drawn"),
    ("seconds", "Mean reward by time", "seconds in RL steps"),
    ("flops", "Mean reward by FLOPs", "useful FLOPs of rollouts and updates"),
)
STAGE_CURVES = (("loss", ("loss", "ce", "nll", "cloning", "cycle")), ("accuracy", ("accuracy",)))
HEALTH_CURVES = (
    ("perplexity", "Perplexity of the mean code distribution"),
    ("used_share", "Share of codes in use"),
    ("dead_codes", "Dead codes"),
    ("top_share", "Share of the most used code"),
    ("conditional_entropy", "Conditional entropy E[H(p)] [nat]"),
    ("mutual_information", "Mutual information [nat]"),
    ("random_action_kl", "KL under a random action [nat]"),
)


def _first_curve(rows: list[Row], names: tuple[str, ...]) -> tuple[list[float], list[float]]:
    for name in names:
        steps, values = curve(rows, name)
        if steps:
            return steps, values
    return [], []


def _names(keys: Iterable[str]) -> list[str]:
    """The measures behind keys of metrics, the short names first; one that is logged on validation too is one."""
    return sorted({key.removeprefix(VALIDATION) for key in keys}, key=lambda name: (len(name), name))


def _line(axes: Axes, points: tuple[list[float], list[float]], key: str, names: list[str], label: str) -> None:
    """One curve in the colour of its measure, dashed if on validation."""
    colour = LINE_COLOURS[names.index(key.removeprefix(VALIDATION)) % len(LINE_COLOURS)]
    line(axes, *points, colour, label, dashed=key.startswith(VALIDATION))


def _is_repeated(key: str, keys: Iterable[str]) -> bool:
    """Whether a curve is that of another key on validation, and needs no place of its own in the legend."""
    return key.startswith(VALIDATION) and key.removeprefix(VALIDATION) in keys


def _explain_dashes(axes: Axes, theme: Theme, keys: Iterable[str]) -> None:
    if any(key.startswith(VALIDATION) for key in keys):
        axes.plot([], [], "--", color=theme.ink, linewidth=1.6, label="validation")


def rl_plots(metrics: dict[str, list[Row]]) -> list[Plot]:
    """Per task and metric one chart with a line per action space; from the phases `rl_SPACE_TASK`."""
    phases = {phase: phase.split("_", 2) for phase in metrics if phase.startswith(tuple(f"rl_{s}_" for s in SPACES))}
    plots = []
    for task in dict.fromkeys(parts[2] for parts in phases.values()):
        for name, title, keys in RL_CURVES:
            curves = {
                space: _first_curve(metrics[f"rl_{space}_{task}"], keys)
                for space in SPACES
                if f"rl_{space}_{task}" in metrics
            }
            curves = {space: points for space, points in curves.items() if points[0]}
            if curves:
                plots.append(Plot(f"rl_{task}_{name}", f"rl_{task}", title, (4.6, 3.0), _draw_spaces(curves)))
    return plots


def cost_plots(results: Row, metrics: dict[str, list[Row]]) -> list[Plot]:
    """Per task the mean reward against what the steps up to there had cost, a line per action space."""
    plots = []
    rows = results.get("rl") or []
    for task in dict.fromkeys(row["task"] for row in rows):
        for name, title, label in COSTS:
            curves = {}
            for row in rows:
                if row["task"] == task and row.get(name):
                    spent = dict(zip(row["steps"], row[name], strict=True))
                    steps, rewards = _first_curve(metrics.get(f"rl_{row['space']}_{task}", []), REWARD)
                    points = [(spent[step], reward) for step, reward in zip(steps, rewards) if step in spent]
                    if points:
                        curves[row["space"]] = [x for x, _ in points], [y for _, y in points]
            if curves:
                draw = _draw_spaces(curves, label)
                plots.append(Plot(f"rl_{task}_reward_{name}", f"rl_{task}", title, (4.6, 3.0), draw))
    return plots


def _draw_spaces(
    curves: dict[str, tuple[list[float], list[float]]], label: str = "RL step"
) -> Callable[[Axes, Theme], None]:
    def draw(axes: Axes, theme: Theme) -> None:
        for space, (places, values) in curves.items():
            line(axes, places, values, SPACE_COLOURS[space], space)
        axes.set_xlabel(label)
        if max(places[-1] for places, _ in curves.values()) >= 1e4:
            axes.xaxis.set_major_formatter(EngFormatter())
        legend(axes, theme)

    return draw


def stage_plots(metrics: dict[str, list[Row]], titles: Titles | None = None) -> list[Plot]:
    """Per stage of pre-training and SFT one chart of its losses and one of its accuracies; validation dashed."""
    plots, titles = [], titles or Titles()
    for phase, rows in metrics.items():
        if not phase.startswith(("stage", "sft")):
            continue
        logged = list(dict.fromkeys(key for row in rows for key in row))
        for kind, words in STAGE_CURVES:
            # A name is a word of the kind, alone or with the rows that it is about: "ce", "ce_text", "eval_loss".
            keys = [key for key in logged if key.removeprefix(VALIDATION).split("_")[0] in words]
            curves = {key: curve(rows, key) for key in keys}
            curves = {key: points for key, points in curves.items() if points[0]}
            if curves:
                draw = _draw_stage(curves, kind)
                plots.append(Plot(f"{phase}_{kind}", "stages", f"{titles.phase(phase)}, {kind}", (4.6, 3.0), draw))
    return plots


def _draw_stage(curves: dict[str, tuple[list[float], list[float]]], kind: str) -> Callable[[Axes, Theme], None]:
    def draw(axes: Axes, theme: Theme) -> None:
        names = _names(curves)
        for key, points in curves.items():
            _line(axes, points, key, names, "_" if _is_repeated(key, curves) else key)
        _explain_dashes(axes, theme, curves)
        magnitudes = [max(map(abs, values)) for _, values in curves.values()]
        if max(magnitudes) > 50 * max(min(magnitudes), 1e-3):
            axes.set_yscale("symlog")
        axes.set_xlabel("step")
        axes.set_ylabel(kind if len(curves) > 1 else next(iter(curves)))
        legend(axes, theme)

    return draw


def health_plots(metrics: dict[str, list[Row]]) -> list[Plot]:
    """Codebook health over the stages one after another, a line per kind of row (image-text, text-only)."""
    stages = {phase: rows for phase, rows in metrics.items() if phase.startswith("stage")}
    plots = []
    for name, title in HEALTH_CURVES:
        logged = dict.fromkeys(key for rows in stages.values() for row in rows for key in row)
        keys = [key for key in logged if key.endswith(name)]
        pieces = {phase: {key: curve(rows, key) for key in keys} for phase, rows in stages.items()}
        pieces = {
            phase: {key: points for key, points in found.items() if points[0]}
            for phase, found in pieces.items()
            if any(points[0] for points in found.values())
        }
        if pieces:
            plots.append(Plot(f"health_{name}", "health", title, (4.6, 3.0), _draw_pieces(pieces, name)))
    return plots


def _draw_pieces(
    pieces: dict[str, dict[str, tuple[list[float], list[float]]]], name: str
) -> Callable[[Axes, Theme], None]:
    keys = list(dict.fromkeys(key for found in pieces.values() for key in found))
    names = _names(keys)
    kinds = {key: key.removeprefix(VALIDATION).removesuffix(name).strip("_") for key in keys}
    labels = {key: ROW_KINDS.get(kind, kind.replace("_", " ")) for key, kind in kinds.items()}
    # Stages start their step count anew: shift each behind the one before.
    ends = [0.0]
    for found in pieces.values():
        ends.append(ends[-1] + max(max(steps) for steps, _ in found.values()))

    def draw(axes: Axes, theme: Theme) -> None:
        for (start, end), (phase, found) in zip(pairwise(ends), pieces.items()):
            for key, (steps, values) in found.items():
                first = phase == next(p for p in pieces if key in pieces[p])
                label = labels[key] if first and not _is_repeated(key, keys) else "_"
                _line(axes, ([start + step for step in steps], values), key, names, label)
            axes.axvline(end, color=theme.grid, linewidth=0.8)
            axes.text((start + end) / 2, 1.0, plain(phase.split("_")[0]), transform=axes.get_xaxis_transform(),
                      ha="center", va="top", fontsize=7, color=theme.ink, alpha=0.7)  # fmt: skip
        axes.set_xlabel("step, the stages one after another")
        axes.margins(y=0.15)
        _explain_dashes(axes, theme, keys)
        legend(axes, theme)

    return draw
