"""What is shown and dumped of rollouts, from a tiny agent with a made-up reward. N prompts, G samples of a prompt."""

import dataclasses
import json

import numpy as np
import pytest

from lam_jax.pipeline.observe import observer
from lam_jax.runs.progress import Progress
from lam_jax.runs.run import Run
from lam_jax.runs.watching import Watching
from lam_jax.train.rl_rewards import Decoder
from tests import tiny
from tests.made_reward import as_reward
from tests.train.made_rl import EXAMPLE, G, N, Numbers, T, config, even_tokens, make, make_with, prompts


@as_reward
def all_but_one(examples, answers):
    """Share of even tokens; the call for sample 3 of the second prompt fails."""
    ok = np.ones((N, G), bool)
    ok[1, 3] = False
    return even_tokens(answers), ok


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def observed(folder, watching, step, phase="rl"):
    run = Run(folder, {}, Progress(enabled=False), watching=watching)
    step.collect.observe = observer(run, phase, step.config, Decoder(Numbers()), tiny.EOS)
    return run


@pytest.mark.parametrize("space", ["latent", "token"])
def test_samples_and_dumps_hold_what_was_rolled_out(tmp_path, space):
    step, create = make(space, all_but_one)
    with observed(tmp_path, Watching(shown=1, dump_rollouts=True), step):
        batch, _ = step.collect(create(), prompts(0))
    out = batch.rollout
    tokens, actions, mask, logps = (np.asarray(x) for x in (out.tokens, out.actions, out.mask, out.logps))
    dumped = lines(tmp_path / "rollouts" / "rl.jsonl")
    assert [(r["step"], r["attempt"], r["id"], r["sample"]) for r in dumped] == [
        (1, 0, "row", g) for _ in range(N) for g in range(G)
    ]
    for index, record in enumerate(dumped):
        n, g = divmod(index, G)
        kept = mask[n, g]
        assert record["tokens"] == tokens[n, g][kept].tolist()
        assert record["actions"] == actions[n, g][kept].tolist()
        np.testing.assert_array_equal(np.float32(record["logps"]), logps[n, g][kept], "every digit of a float32")
        text = " ".join(str(t) for t in tokens[n, g][kept] if t >= tiny.FIRST_WORD)
        assert record["text"] == text
        if (n, g) == (1, 3):
            assert (record["reward"], record["parts"], record["error"]) == (None, {}, "no reply")
        else:
            even = np.mean([int(w) % 2 == 0 for w in text.split()] or [0])
            assert (record["reward"], record["parts"], record["error"]) == (even, {"reward": even}, None)
    (shown,) = lines(tmp_path / "samples.jsonl")
    assert (shown["phase"], shown["step"], shown["steps"], shown["id"]) == ("rl", 1, 100, EXAMPLE.id)
    assert len(shown["answers"]) == G
    for answer, record in zip(shown["answers"], dumped):
        assert answer["codes"] == (record["actions"] if space == "latent" else None)
        assert answer["logp"] == pytest.approx(sum(record["logps"]), abs=1e-4)
        assert (answer["text"], answer["length"], answer["reward"]) == (record["text"], T, record["reward"])


def test_an_answer_is_finished_if_it_ends_in_the_end_of_turn_token(tmp_path):
    """With one that a third of the answers draw; those that draw it in the last place are finished too."""
    free, create = make("token")
    found = np.asarray(free.collect(create(), prompts(0))[0].rollout.tokens)
    end = max(range(tiny.VOCAB), key=lambda t: min((found == t).any(axis=-1).sum(), N * G // 2))
    agent = tiny.agent()
    ends = dataclasses.replace(agent.backbone.config, eos_id=int(end))
    settings = config("token")
    settings = dataclasses.replace(settings, rollout=dataclasses.replace(settings.rollout, stop=True))
    step, create = make_with(settings, agent=agent.replace(backbone=agent.backbone.replace(config=ends)))
    with Run(tmp_path, {}, Progress(enabled=False), watching=Watching(dump_rollouts=True)) as run:
        step.collect.observe = observer(run, "rl", step.config, Decoder(Numbers()), int(end))
        step.collect(create(), prompts(0))
    dumped = lines(tmp_path / "rollouts" / "rl.jsonl")
    finished = [record["finished"] for record in dumped]
    assert finished == [bool(row.any()) for rows in (found == end) for row in rows]
    assert 0 < sum(finished) < len(finished)
    assert all(len(record["tokens"]) == T for record in dumped if not record["finished"])


def test_only_the_steps_that_are_asked_for_are_looked_at(tmp_path):
    settings = dataclasses.replace(config("latent"), steps=5)
    step, create = make_with(settings)
    with observed(tmp_path, Watching(samples_every=2, shown=9), step):
        state = create()
        for number in range(5):
            step.collect(state.replace(step=state.step + number), prompts(0))
    found = [(record["step"], record["id"]) for record in lines(tmp_path / "samples.jsonl")]
    assert found == [(number, "row") for number in (1, 2, 4, 5) for _ in range(N)]
    assert not (tmp_path / "rollouts").exists()


def test_refills_are_dumped_and_not_shown(tmp_path):
    step, create = make("latent", as_reward(lambda *_: np.full((N, G), 0.5)), [prompts(10)] * 2, "dapo", max_refills=1)
    with observed(tmp_path, Watching(dump_rollouts=True), step):
        step.collect(create(), prompts(0))
    assert [r["attempt"] for r in lines(tmp_path / "rollouts" / "rl.jsonl")] == [0] * N * G + [1] * N * G
    assert len(lines(tmp_path / "samples.jsonl")) == N


def test_with_nothing_to_show_there_is_no_observer(tmp_path):
    step, _ = make("latent")
    with observed(tmp_path, Watching(samples_every=0), step):
        assert step.collect.observe is None
