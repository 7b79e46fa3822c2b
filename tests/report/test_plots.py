"""What a reader of a figure relies on: a legend hides no curve, and a measure has one colour, on validation too."""

import pytest

from lam_jax.report.curves import VALIDATION, cost_plots, rl_plots, stage_plots
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


def test_rewards_are_drawn_against_what_the_steps_had_cost():
    """Steps 1 and 3 were logged; of the costs those of 1 to 3 are there."""
    metrics = {
        "rl_latent_help": [{"step": step, "reward_mean": reward} for step, reward in ((1, 0.5), (3, 0.75))],
        "rl_token_help": [{"step": 1, "eval_score": 0.1}],
    }
    costs = {"steps": [1, 2, 3], "samples": [128, 384, 512], "seconds": [2.0, 3.0, 4.5], "flops": [1e12, 2e12, 3e12]}
    results = {"rl": [{"task": "help", "space": space, **costs} for space in ("latent", "token")]}
    plots = {plot.name: plot for plot in cost_plots(results, metrics)}
    assert list(plots) == [f"rl_help_reward_{by}" for by in ("samples", "seconds", "flops")]
    for name, places in (("samples", [128, 512]), ("seconds", [2.0, 4.5]), ("flops", [1e12, 3e12])):
        (axes,) = draw_figure(plots[f"rl_help_reward_{name}"], LIGHT).axes
        (curve,) = axes.lines
        assert (list(curve.get_xdata()), list(curve.get_ydata())) == (places, [0.5, 0.75])
        assert [text.get_text() for text in axes.get_legend().get_texts()] == ["latent"]
    assert cost_plots({}, metrics) == []


@pytest.mark.parametrize("name", ["ID", "Held-out rows", "WWWWWWWWWW WWWWWWWWWW: everything else that there is"])
def test_the_names_of_splits_are_on_the_paper_beside_their_scores(name):
    results = made_up_run.results()
    for task in results["tasks"].values():
        task["splits"] = dict.fromkeys(task["splits"], name)
    for plot in all_plots(results, by_phase()):
        if plot.section == "scores":
            figure = draw_figure(plot, LIGHT)
            (axes,) = figure.axes
            figure.canvas.draw()
            assert min(label.get_window_extent().x0 for label in axes.get_yticklabels()) >= 0
            assert axes.get_window_extent().width > figure.bbox.width / 3
