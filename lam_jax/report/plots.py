"""The report's figures, drawn by matplotlib without a display, once for a light page and once for a dark one.

Figures are small and hold one idea each: the page lays them out side by side on a wide screen and below one another on
a phone. Blue is always the latent space, green the hybrid and orange the token space where spaces are compared; in the
usage charts a bar has the colour that its code has in the sample answers.
"""

import colorsys
from collections.abc import Callable

from matplotlib.axes import Axes
from matplotlib.textpath import TextPath

from lam_jax.report.comparison import comparisons
from lam_jax.report.curves import cost_plots, health_plots, rl_plots, stage_plots
from lam_jax.report.figure import SPACE_COLOURS, Plot, Theme, plain
from lam_jax.report.names import SPACES, Titles
from lam_jax.report.schema import Row

LABEL = 30  # characters of a split's name beside its scores


def code_colour(code: int, codes: int) -> str:
    """The fixed colour of a code as `#rrggbb`: neighbouring codes get far hues, every third another lightness."""
    hue = (code * 0.61803398875) % 1.0
    lightness = (0.62, 0.50, 0.72)[code % 3] if codes > 12 else 0.60
    red, green, blue = colorsys.hls_to_rgb(hue, lightness, 0.62)
    return f"#{round(red * 255):02x}{round(green * 255):02x}{round(blue * 255):02x}"


def _cut(label: str) -> str:
    return label if len(label) <= LABEL else f"{label[: LABEL - 1]}\u2026"


def score_plots(results: Row) -> list[Plot]:
    """One interval chart per task: every split and temperature; hollow after SFT, filled after RL."""
    compared, titles = comparisons(results), Titles.of(results)
    # A run without the hybrid space has no lanes for it.
    spaces = [s for s in SPACES if s != "hybrid" or any(s in row.scores for row in compared)]
    lanes = [(space, phase) for space in spaces for phase in ("sft", "rl")]

    def plot(task: str) -> Plot:
        rows = [row for row in compared if row.task == task]
        splits = [_cut(titles.short_split(task, row.split)) for row in rows]
        labels = [f"{split}, T {row.temperature:g}" for split, row in zip(splits, rows, strict=True)]

        def draw(axes: Axes, theme: Theme) -> None:
            for place, row in enumerate(rows):
                for lane, (space, phase) in enumerate(lanes):
                    score = row.score(space, phase)
                    if score is None:
                        continue
                    height = place + (lane - (len(lanes) - 1) / 2) * 0.72 / len(lanes)
                    colour = SPACE_COLOURS[space]
                    axes.plot([score["low"], score["high"]], [height] * 2, color=colour, linewidth=2, alpha=0.75)
                    fill = colour if phase == "rl" else theme.paper
                    axes.plot(score["mean"], height, "o", color=colour, markerfacecolor=fill, markersize=5)
            for space in spaces:
                for phase, fill in (("sft", theme.paper), ("rl", SPACE_COLOURS[space])):
                    if any(row.score(space, phase) for row in rows):
                        axes.plot([], [], "o", color=SPACE_COLOURS[space], markerfacecolor=fill, markersize=5,
                                  label=f"{space}, {phase.upper()}")  # fmt: skip
            axes.set_yticks(range(len(rows)), [plain(label) for label in labels])
            axes.set_ylim(len(rows) - 0.4, -0.6)
            axes.grid(axis="y", visible=False)
            axes.set_xlabel("score")
            axes.legend(fontsize=7.5, frameon=False, labelcolor=theme.ink, loc="lower center", ncols=4,
                        bbox_to_anchor=(0.55, 0.0), bbox_transform=axes.figure.transFigure,
                        columnspacing=1.0, handletextpad=0.1)  # fmt: skip

        size = (5.4, 1.3 + 0.5 * len(rows))
        points = max(TextPath((0, 0), plain(label), size=8).get_extents().width for label in labels)
        left = max(0.85, 0.15 + points / 72)
        return Plot(f"scores_{task}", "scores", titles.task(task), size, draw, margins=(left, 0.12, 0.75, 0.3))

    return [plot(task) for task in dict.fromkeys(row.task for row in compared)]


def usage_plots(results: Row) -> list[Plot]:
    """How often the inverse dynamics picks each code: a bar per code in the colour it has in the sample answers."""
    latent = results.get("latent") or {}
    plots = []
    for key, title in (("usage", "Image-text rows"), ("usage_text_only", "Text-only rows")):
        usage = latent.get(key)
        if usage:
            plots.append(Plot(f"code_{key}", "usage", title, (5.4, 2.8), _draw_usage(list(usage))))
    return plots


def _draw_usage(usage: list[float]) -> Callable[[Axes, Theme], None]:
    def draw(axes: Axes, theme: Theme) -> None:
        colours = [code_colour(code, len(usage)) for code in range(len(usage))]
        axes.bar(range(len(usage)), usage, color=colours, width=0.85)
        total = sum(usage)
        axes.axhline(total / len(usage), color=theme.ink, linewidth=0.9, linestyle=":", label="uniform")
        axes.set_xlabel("code")
        axes.set_ylabel("share of positions" if abs(total - 1) < 0.01 else "positions")
        axes.set_xlim(-0.8, len(usage) - 0.2)
        axes.grid(axis="x", visible=False)
        axes.legend(fontsize=7.5, frameon=False, labelcolor=theme.ink)

    return draw


def all_plots(results: Row, metrics: dict[str, list[Row]]) -> list[Plot]:
    """Every figure that this run has numbers for, in the order of the report."""
    return [
        *score_plots(results),
        *rl_plots(metrics),
        *cost_plots(results, metrics),
        *stage_plots(metrics, Titles.of(results)),
        *health_plots(metrics),
        *usage_plots(results),
    ]
