"""A pipeline in place of the real one: the phases of a recipe, checkpointed by a real `Run`, but arrays of one number.

What a phase "trains" is a sum over what it depends on, so that a phase that is wrongly shared gives other scores.
"""

import dataclasses
import hashlib
import json
from pathlib import Path

import jax
import numpy as np

from lam_jax.grid.grid import Grid
from lam_jax.parallel.mesh import make_mesh
from lam_jax.pipeline.phases import rl_phase, scores_phase, sft_phases
from lam_jax.pipeline.plan import phases_of
from lam_jax.pipeline.shares import Shares
from lam_jax.recipe import Recipe
from lam_jax.recipes import demo
from lam_jax.runs.phase_store import PhaseStore
from lam_jax.runs.progress import Progress
from lam_jax.runs.run import Run
from lam_jax.train.spaces import SPACES

CONTENT = {"model": {"weights": "a"}, "rows": ["b", "c", "d"], "rewards": {}}
ROWS = ("r0", "r1", "r2")


def grid(**axes) -> Grid:
    """A grid of the demo's recipe in one space on one task."""
    axes = axes or {"seed": (0, 1), "algorithm": ("grpo", "dapo")}
    return Grid("made", {"demo": demo.recipe}, axes, {"task": ("role_play",), "spaces": ("token",)})


def number(*parts) -> float:
    """A number in [0, 1) of its own for each list of values."""
    return int(hashlib.sha256(repr(parts).encode()).hexdigest()[:6], 16) / 16**6


@dataclasses.dataclass
class Pipeline:
    """Takes the place of `run_recipe`.

    Attributes:
        trained: (run's folder, phase) of each phase that was not restored.
        raises: error by (algorithm, phase), raised once where the phase would be trained.
    """

    trained: list = dataclasses.field(default_factory=list)
    raises: dict = dataclasses.field(default_factory=dict)

    def __call__(self, recipe: Recipe, out: Path, *, store: Path, **_) -> dict:
        devices = make_mesh(devices=jax.devices()[:1])
        with Run(out, {"recipe": recipe, "content": CONTENT}, Progress(enabled=False)) as run:
            shares = Shares(recipe, CONTENT, devices)
            run.share(PhaseStore(store, lambda phase: shares.key(run.phases, phase)))
            (task,), (space,) = recipe.tasks, (SPACES[name] for name in recipe.spaces)
            algorithm = recipe.rl.algorithm_of(task.name).name
            state, rows = 0.0, []
            for phase in phases_of(recipe):
                own = (algorithm, recipe.rl.steps) if phase.startswith(("rl_", "scores_rl", "reach_rl")) else ()

                def train(phase=phase, own=own, state=state):
                    self.trained.append((Path(out).name, phase))
                    if (error := self.raises.pop((algorithm, phase), None)) is not None:
                        raise error
                    value = number(state, phase, recipe.seed, *own)
                    by_prompt = {row: [round(number(value, row, i), 6) for i in range(2)] for row in ROWS}
                    entry = {"split": "id", "temperature": 1.0, "samples": 2, "scores": by_prompt}
                    return {"w": np.float32(value)}, {"by_prompt": [entry]}

                result = run.phase(phase, train, {"w": np.float32(0)})
                if phase.startswith(("stage", "sft", "rl_")):
                    state = float(result.tree["w"])
                for name in ("sft", "rl"):
                    if phase == scores_phase(name, task.name, space):
                        given = {"task": task.name, "space": space.name, "phase": name, "split": "id"}
                        rows.append(given | {"temperature": 1.0, "lexical_diversity": 2.0, "samples": 2})
            assert set(sft_phases(task.name, space, recipe.method)) <= run.results.keys()
            cost = {"task": task.name, "space": space.name, "steps": [1, 2], "flops": [1.0, 2.0]}
            assert rl_phase(task.name, space) in run.results
            lines = [{"phase": "other", "step": 1, "rl_step_s": 1.0, "reward_mean": 9.0}]
            for step, scalars in ((0, {"eval_s": 1.0}), (1, {"rl_step_s": 1.0, "reward_mean": 0.25, "kl": 0.0})):
                lines.append({"phase": rl_phase(task.name, space), "step": step, **scalars})
            lines.append(lines[-1] | {"step": 2, "reward_mean": 0.5})
            (Path(out) / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
            (Path(out) / "results.json").write_text("{}")
            return {
                "phases": run.timings(),
                "rl": [cost],
                "environment": {"commit": "abc", "device": "cpu", "jax": "0"},
                "tasks": {task.name: {"title": task.title, "splits": {"id": "ID"}}},
                "speed": [],
                "gain": [],
                "latent": {"cloning_accuracy": 0.5},
                "scores": rows,
            }
