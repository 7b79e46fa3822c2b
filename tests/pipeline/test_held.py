"""What a real stage 6 has on the devices against what `lam-jax compile` counts for it."""

import collections
import dataclasses

import jax
import numpy as np
import pytest

import lam_jax
from lam_jax.aot import programs
from lam_jax.aot.programs import Setting, build
from lam_jax.aot.workload import Workload
from lam_jax.parallel.choose_layout import choose_layout
from lam_jax.pipeline import tasks
from lam_jax.rollout import run as rollout_run
from lam_jax.train.rl_update import Update
from lam_jax.train.spaces import SPACES
from tests.end_to_end.quick_game import quick_game, write_model

LOOSE = 5_000  # bytes: scalars, keys, and the support of truncated draws, which the settings here do not have


def arrays(tree):
    """How many of each shape and dtype."""
    return collections.Counter((x.shape, str(x.dtype)) for x in jax.tree.leaves(tree))


def size(counter):
    return sum(
        count * int(np.prod(shape)) * (8 if "key" in dtype else np.dtype(dtype).itemsize)
        for (shape, dtype), count in counter.items()
    )


class Looks:
    """Counts the arrays on the devices that were not there before."""

    def __init__(self):
        self.before, self.at = jax.live_arrays(), {}

    def into(self, name, function):
        """The function, before which it counts."""

        def looked(*arguments, **named):
            known = set(map(id, self.before))
            self.at.setdefault(name, []).append(arrays([x for x in jax.live_arrays() if id(x) not in known]))
            return function(*arguments, **named)

        return looked


@pytest.mark.parametrize(("space", "beta"), [("latent", 0.01), ("hybrid", 0.0), ("token", 0.01)])
def test_what_is_counted_is_what_is_held(tmp_path, monkeypatch, space, beta):
    def kept_apart(mesh):
        return dataclasses.replace(choose_layout(mesh), kept_apart=True)

    monkeypatch.setattr(tasks, "choose_layout", kept_apart)
    monkeypatch.setattr(programs, "choose_layout", kept_apart)
    recipe = quick_game("maze", (space,), write_model(tmp_path / "model"))
    algorithm = dataclasses.replace(recipe.rl.algorithm_of("maze"), beta=beta)
    model = dataclasses.replace(recipe.model, compute_dtype="bfloat16")
    rl = dataclasses.replace(recipe.rl, algorithm=algorithm, task_algorithms={}, weights="best", steps=1)
    recipe = dataclasses.replace(recipe, model=model, rl=rl)
    with lam_jax.open_run(recipe, tmp_path / "run", (1, 1, 1)) as (run, resources):
        task, looks = recipe.tasks[0], Looks()
        monkeypatch.setattr(rollout_run, "jitted", looks.into("rollout", rollout_run.jitted))
        monkeypatch.setattr(Update, "__call__", looks.into("update", Update.__call__))
        agent = resources.base_agent()
        tasks.reinforce(run, resources, task, SPACES[space], agent)
    work = Workload(
        rows=1,
        prompts=rl.prompts,
        samples=rl.samples,
        prompt=task.prompt_lengths[-1],
        completion=task.answer_length,
        image=recipe.image.size,
    )
    setting = Setting(
        "quick", resources.mesh, work, recipe.method, resources.config, recipe.latent, algorithm, rl.rollout_weights
    )
    for kind in ("rollout", "update"):
        counted = arrays(build(f"{kind}_{space}", setting).resident)
        assert looks.at[kind], kind
        for held in looks.at[kind]:
            assert size(counted - held) < LOOSE, (kind, counted - held)
            assert size(held - counted) < LOOSE, (kind, held - counted)
