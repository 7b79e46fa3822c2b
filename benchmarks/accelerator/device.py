"""Items `device` and `equality`: what the device is and what it can do, and whether the numbers are right on it."""

import dataclasses
from pathlib import Path

import jax
import numpy as np

from benchmarks.accelerator.results import Results
from benchmarks.floors import measure_peaks
from benchmarks.programs import RolloutProgram
from benchmarks.records import environment
from benchmarks.workload import METHOD, WORKLOADS, Workload, make_agent, prompts, rl_config, spaces
from lam_jax.nn.layout import PLAIN
from lam_jax.rollout.run import run_rollout
from lam_jax.train.spaces import SPACES

GOLDEN = Path(__file__).parents[2] / "tests" / "parity" / "golden_data"


def device(results: Results, work: Workload) -> None:
    """Versions, read bandwidth, matmul peaks."""
    results.save(environment=environment())
    for dtype in ("bfloat16", "float32"):
        peaks = measure_peaks(dtype)
        results.add(f"peak.{dtype}.flops", peaks.flops_per_s, "FLOP/s")
    results.add("peak.read_bandwidth", peaks.bytes_per_s, "bytes/s")
    stats = jax.local_devices()[0].memory_stats() or {}
    if "bytes_limit" in stats:
        results.add("memory.limit", stats["bytes_limit"], "bytes")


def equality(results: Results, work: Workload) -> None:
    """Our committed golden vectors, and rollouts against the plain path, in float32 and bfloat16."""
    if not results.has("golden.failed"):
        with results.part("golden"), jax.default_matmul_precision("highest"):
            _golden(results)
    for dtype in ("float32", "bfloat16"):
        for name in SPACES:
            if not results.has(f"rollout.{name}.{dtype}.rescored_gap"):
                with results.part(f"{name}.{dtype}"):
                    _rollout(results, name, dtype)


def _golden(results: Results) -> None:
    from tests.parity.golden import verdicts

    found = verdicts(GOLDEN, "own")
    failed = [v for v in found if not v.passed]
    worst = max((v.absolute for v in found if np.isfinite(v.absolute)), default=0.0)
    note = "; ".join(f"{v.name}: {v.absolute:.2e} {v.note}" for v in failed)[:2000]
    results.add("golden.arrays", len(found), "count")
    results.add("golden.failed", len(failed), "count", note=note, worst_absolute=float(worst))


def _rollout(results: Results, name: str, dtype: str) -> None:
    """The rollout of the device's layout beside the plain layout's, and its log-probabilities scored again."""
    base = WORKLOADS["tiny"]
    config = dataclasses.replace(base.config, compute_dtype=dtype)
    work = dataclasses.replace(base, prompts=2, samples=4, completion=32)
    precision = "highest" if dtype == "float32" else "default"
    with jax.default_matmul_precision(precision):
        agent = make_agent(work)
        agent = agent.replace(backbone=agent.backbone.replace(config=config))
        agent = jax.tree.map(lambda x: x.astype(dtype), agent)
        space, batch, rollout = spaces(agent)[name], prompts(work), rl_config(work, name).rollout
        program = RolloutProgram(space, batch, rollout)
        fast = program()
        slow = run_rollout(space, batch, program.ids, program.key, rollout, layout=PLAIN)
        same = np.asarray((fast.actions == slow.actions) & (fast.tokens == slow.tokens))
        # Up to the first action that differs both saw the same past.
        alike = np.cumprod(same, axis=-1).astype(bool)
        gap = np.abs(np.asarray(fast.logps) - np.asarray(slow.logps))[alike]
        logps, _ = SPACES[name].logps(agent, METHOD, batch, fast, rollout.sampling, False)
        again = np.abs(np.asarray(logps) - np.asarray(fast.logps))
    title = f"rollout.{name}.{dtype}"
    results.add(f"{title}.same_actions", float(alike.mean()), "share", note="before the first that differs")
    results.add(f"{title}.logp_gap", float(gap.max(initial=0.0)), "nats", mean=float(gap.mean()) if gap.size else 0.0)
    results.add(f"{title}.rescored_gap", float(again.max()), "nats", mean=float(again.mean()))
