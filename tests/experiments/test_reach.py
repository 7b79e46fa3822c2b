"""`python -m experiments.reach`: which recipe each half runs, on which agent, and that its lines add up."""

import contextlib
import dataclasses
import json
from types import SimpleNamespace

import pytest

from experiments import reach

LEARNED, TUNED, BASE = object(), object(), object()


@pytest.fixture
def calls(monkeypatch):
    """What is opened and trained, in order; each phase's record is that of the probe put in its place."""
    found = []

    @contextlib.contextmanager
    def open_run(recipe, out, save_every):
        found.append(("open", recipe, out))
        run = SimpleNamespace(phase=lambda name, function: SimpleNamespace(record=function()[1] | {"name": name}))
        yield run, SimpleNamespace(recipe=recipe, base_agent=lambda: BASE)

    def learn(run, resources, agent):
        found.append(("learn", agent))
        return LEARNED

    def tune(run, resources, task, space, agent):
        found.append(("tune", task.name, space.name, agent))
        return TUNED

    def learned_reach(resources, agent):
        found.append(("reach 4", agent))
        return {"reach": [{"rows": "paired", "gain_over_backbone": 0.3}, {"rows": "help", "gain_over_backbone": 0.2}]}

    def measured(resources, task, space, agent):
        found.append(("reach 5", agent))
        return {"reach": {"gain_over_backbone": 0.1}}

    replaced = {"open_run": open_run, "learn_actions": learn, "fine_tune": tune}
    replaced |= {"measure_learned_reach": learned_reach, "measure_reach": measured, "start_process": lambda: None}
    for name, function in replaced.items():
        monkeypatch.setattr(reach, name, function)
    return found


def test_stage_5_goes_on_from_what_stages_1_to_4_learned(calls, tmp_path):
    reach.main(reach.Config(tmp_path, seed=3, sft="learn", steps=250, task="help"))
    (_, shared, first), *between, (_, own, second), tuned, probed = calls
    assert between == [("learn", BASE), ("reach 4", LEARNED)]
    assert (tuned, probed) == (("tune", "help", "latent", LEARNED), ("reach 5", TUNED))
    assert (shared.seed, own.seed, own.method.sft, own.sft.steps) == (3, 3, "learn", 250)
    same = dataclasses.replace(own, tasks=shared.tasks, rl=shared.rl, sft=shared.sft, method=shared.method)
    assert same == shared, "stages 1 to 4 are those of one recipe"
    assert (first.name, second.name) == ("codes_on_3", "help_on_learn_on_250_3")


def test_the_noise_of_stage_5_may_be_another(calls, tmp_path):
    reach.main(reach.Config(tmp_path, gumbel="annealed", sft_gumbel="off"))
    opened = [call for call in calls if call[0] == "open"]
    assert [made.method.gumbel for _, made, _ in opened] == ["annealed", "off"]
    assert opened[0][2].name == "codes_annealed_0"
    reach.main(reach.Config(tmp_path, gumbel="annealed"))
    assert calls[-3][1].method.gumbel == "annealed"


def test_each_call_adds_a_line(calls, tmp_path):
    tmp_path.joinpath("x").mkdir()
    for seed in (0, 1):
        reach.main(reach.Config(tmp_path / "x", seed=seed))
    lines = [json.loads(line) for line in (tmp_path / "x" / "reach.jsonl").read_text().splitlines()]
    assert [line["seed"] for line in lines] == [0, 1]
    assert lines[0]["gain_after_stage4"] == {"paired": 0.3, "help": 0.2}
    assert lines[0]["reach"] == {"gain_over_backbone": 0.1}
    assert lines[0]["steps"] == 70
