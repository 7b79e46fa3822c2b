"""One figure of the report: its style, and drawing it to PNG without a display, on a light page or on a dark one."""

import io
from collections.abc import Callable
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from lam_jax.report.names import SPACES

SPACE_COLOURS = {"latent": "#3b82d6", "hybrid": "#3f9d6b", "token": "#dd7f2a"}


@dataclass(frozen=True)
class Theme:
    """Colours of one page background; `paper` is the card colour in templates/style.css."""

    ink: str
    grid: str
    paper: str


LIGHT = Theme(ink="#31363d", grid="#d9dde3", paper="#ffffff")
DARK = Theme(ink="#c6ccd4", grid="#3a414b", paper="#171b21")


@dataclass(frozen=True)
class Plot:
    """A figure before it is drawn: file name, section of the report, caption, size in inches, painter."""

    name: str
    section: str
    caption: str
    size: tuple[float, float]
    draw: Callable[[Axes, Theme], None]
    margins: tuple[float, float, float, float] = (0.62, 0.12, 0.68, 0.3)  # left, right, bottom, top in inches


def render(plot: Plot, theme: Theme) -> bytes:
    """The figure as PNG bytes, on the theme's paper colour."""
    buffer = io.BytesIO()
    draw_figure(plot, theme).savefig(buffer, format="png")
    return buffer.getvalue()


def draw_figure(plot: Plot, theme: Theme) -> Figure:
    """The figure with its one axes."""
    width, height = plot.size
    figure = Figure(figsize=plot.size, dpi=150, facecolor=theme.paper)
    FigureCanvasAgg(figure)
    # Margins in inches: matplotlib's automatic layouts draw everything once more and took most of the report's time.
    left, right, bottom, top = plot.margins
    figure.subplots_adjust(left / width, bottom / height, 1 - right / width, 1 - top / height)
    axes = figure.add_subplot(facecolor="none")
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(theme.grid)
    axes.tick_params(colors=theme.ink, labelsize=8, length=0)
    axes.grid(color=theme.grid, linewidth=0.6, alpha=0.7)
    axes.set_axisbelow(True)
    # Matplotlib's own formatter moves the magnitude of large numbers to where our title stands.
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:.4g}")
    plot.draw(axes, theme)
    axes.xaxis.label.set(color=theme.ink, fontsize=8.5)
    axes.yaxis.label.set(color=theme.ink, fontsize=8.5)
    axes.set_title(plain(plot.caption), color=theme.ink, fontsize=9.5, loc="left", fontweight="bold")
    return figure


def plain(text: str) -> str:
    """Text that matplotlib prints as it stands: a dollar sign would start a formula."""
    return text.replace("$", r"\$")


def legend(axes: Axes, theme: Theme) -> None:
    """A legend below the axes, where there is something to tell apart or where one space alone was run."""
    handles, labels = axes.get_legend_handles_labels()
    if len(handles) > 1 or (labels and labels[0] in SPACES):
        axes.legend(fontsize=7.5, frameon=False, labelcolor=theme.ink, loc="lower center", ncols=len(handles),
                    bbox_to_anchor=(0.5, 0.01), bbox_transform=axes.figure.transFigure, borderaxespad=0.0,
                    columnspacing=1.2, handlelength=1.6, handletextpad=0.4)  # fmt: skip


def line(axes: Axes, steps: list[float], values: list[float], colour: str, label: str, dashed: bool = False) -> None:
    """One curve; a single point, or few of them, gets markers so that it can be seen at all."""
    marker = "o" if len(steps) <= 12 else ""
    style = "--" if dashed else "-"
    axes.plot(steps, values, style, color=colour, linewidth=1.6, marker=marker, markersize=3, label=plain(label))
