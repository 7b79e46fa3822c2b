"""What a reader of a figure relies on: a legend hides no curve, and a measure has one colour, on validation too."""

import pytest

from lam_jax.report.curves import VALIDATION, rl_plots, stage_plots
from lam_jax.report.figure import LIGHT, draw_figure
from lam_jax.report.plots import all_plots
from tests.report import made_up_run

MEASURES = ("ce", "cloning", "loss")


JOINT = ("ce_paired", "ce_text", "nll", "cycle", "loss")  # the most curves of one figure


def phase_of(phase: str, measures: tuple[str, ...]) -> dict[str, list[dict]]:
    """Metrics of one phase, on training and on validation rows."""
    rows = [{"step": step} | {name: 4.0 / (step + 1) for name in measures} for step in range(60)]
    rows += [{"step": step} | {VALIDATION + name: 4.0 for name in measures} for step in (0, 30, 59)]
    return {phase: rows}


def fine_tuning() -> dict[str, list[dict]]:
    return phase_of("sft_latent_role_play", MEASURES)


def by_phase() -> dict[str, list[dict]]:
    phases: dict[str, list[dict]] = {}
    for row in made_up_run.metrics():
        phases.setdefault(row["phase"], []).append(row)
    return phases


@pytest.mark.parametrize(
    "plots",
    [
        stage_plots(fine_tuning()),
        stage_plots(phase_of("stage3_joint", JOINT)),
        rl_plots(by_phase()),
        all_plots(made_up_run.results(), by_phase()),
    ],
)
def test_a_legend_lies_below_the_axes_and_their_label(plots):
    seen = 0
    for plot in plots:
        figure = draw_figure(plot, LIGHT)
        figure.canvas.draw()
        (axes,) = figure.axes
        legend = axes.get_legend()
        if legend is None or plot.section == "usage":  # bars leave room
            continue
        seen += 1
        box, label = legend.get_window_extent(), axes.xaxis.label.get_window_extent()
        assert box.y1 < axes.get_window_extent().y0, plot.name
        assert min(box.x0, box.y0) >= 0, plot.name
        assert box.x1 <= figure.bbox.x1, plot.name
        assert not box.overlaps(label), plot.name
    assert seen


def test_a_measure_has_one_colour_and_its_validation_is_dashed():
    (plot,) = stage_plots(fine_tuning())
    (axes,) = draw_figure(plot, LIGHT).axes
    drawn = [line for line in axes.get_lines() if len(line.get_xdata())]
    colours: dict[str, set] = {}
    for line in drawn:
        colours.setdefault(line.get_linestyle(), set()).add(line.get_color())
    assert colours["-"] == colours["--"]
    assert len(colours["-"]) == len(MEASURES)
    assert [text.get_text() for text in axes.get_legend().get_texts()] == [*MEASURES, "validation"]
