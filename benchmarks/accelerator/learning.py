"""Items `latent` and `token`: rollout, update and whole step of reinforcement learning, as training runs them.

N prompts, G samples of a prompt, T completion length.
"""

import dataclasses
import statistics

import jax
import jax.numpy as jnp

from benchmarks.accelerator.profile import profiled
from benchmarks.accelerator.results import Results
from benchmarks.accelerator.timing import peak_gib, timed
from benchmarks.floors import Peaks, measure_peaks
from benchmarks.programs import PrefillProgram, StepProgram, rl_parts
from benchmarks.update_counting import update_flops
from benchmarks.workload import Workload, make_halves, prompts, sample_ids
from lam_jax.parallel.cards import CARDS
from lam_jax.rollout.run import run_rollout
from lam_jax.train.counting import decode_bytes

DATA_SHEET = {card.title: card.flops for card in CARDS.values()}  # what MFU is a share of
PROFILED = 120  # seconds that have to be left for the profile of a rollout, whose events take long to read
MANY = 32  # prompts of the larger rollout


def latent(results: Results, work: Workload) -> None:
    """All of latent RL."""
    _learning(results, work, "latent")


def token(results: Results, work: Workload) -> None:
    """All of token RL."""
    _learning(results, work, "token")


def _learning(results: Results, work: Workload, space: str) -> None:
    peaks = measure_peaks(work.config.compute_dtype)
    program = StepProgram(make_halves(work, rl_parts(work, space)), work, space, own=True)
    if not results.has("rollout.tokens_per_s"):
        with results.part("rollout"):
            _rollout(results, work, space, program, peaks, "")
    if not results.has("step.s"):
        with results.part("step"):
            _step(results, work, space, program, peaks)
    if not results.has("update.profiled_s"):
        with results.part("profile"):
            _profile(results, program)


def many(results: Results, work: Workload) -> None:
    """Rollouts of more prompts, in both action spaces."""
    peaks = measure_peaks(work.config.compute_dtype)
    large = dataclasses.replace(work, prompts=MANY)
    for space in ("latent", "token"):
        if not results.has(f"{space}.rollout.tokens_per_s"):
            with results.part(space):
                program = StepProgram(make_halves(work, rl_parts(work, space)), work, space, own=True)
                _rollout(results, large, space, program, peaks, f"{space}.")
                del program


def _rollout(results: Results, work: Workload, space: str, program: StepProgram, peaks: Peaks, prefix: str) -> None:
    actions, batch = program.collect.actions(program.state), prompts(work)
    config, ids = program.config.rollout, sample_ids(work.prompts, work.samples)
    key = jax.random.key(1)
    found = timed(lambda: run_rollout(actions, batch, ids, key, config), 1)
    prefill = timed(PrefillProgram(actions, batch), 3)
    needed = decode_bytes(
        work.config, work.latent if space == "latent" else None, work.prompts, work.samples, work.prompt,
        work.completion, jnp.dtype(work.config.dtype).itemsize,
    ).total  # fmt: skip
    floor = needed / peaks.bytes_per_s
    step = (found.median - prefill.median) / work.completion
    results.add(f"{prefix}rollout.s", found.median, "s", repeats=found.seconds)
    best = work.tokens / (floor * work.completion)
    results.add(f"{prefix}rollout.tokens_per_s", work.tokens / found.median, "tokens/s", floor=best)
    results.add(f"{prefix}prefill.s", prefill.median, "s", repeats=prefill.seconds)
    results.add(f"{prefix}decode.step_ms", 1e3 * step, "ms", floor=1e3 * floor)
    results.add(f"{prefix}decode.floor_share", floor / step, "share")
    results.add(f"{prefix}rollout.compile_s", found.compile_s, "s")
    results.add(f"{prefix}rollout.recompiled", found.recompiled + prefill.recompiled, "count")
    if (peak := peak_gib()) is not None:
        results.add(f"{prefix}rollout.peak_memory", peak, "GiB", note="of the process so far, training state included")


def _step(results: Results, work: Workload, space: str, program: StepProgram, peaks: Peaks) -> None:
    found = timed(program, 3, keep=True)
    updates = [metrics["update_s"] for metrics in found.results]
    flops, kind = update_flops(work, space), jax.devices()[0].device_kind  # pyright: ignore[reportArgumentType]
    seconds = statistics.median(updates)
    results.add("update.s", seconds, "s", floor=flops / peaks.flops_per_s, repeats=updates)
    results.add("update.peak_share", flops / seconds / peaks.flops_per_s, "share", note="of the measured matmul peak")
    if kind in DATA_SHEET:
        results.add("update.mfu", flops / seconds / DATA_SHEET[kind], "share", note="of the data sheet's bf16 peak")
    results.add("step.s", found.median, "s", repeats=found.seconds)
    results.add("step.rollout_s", statistics.median(m["rollout_s"] for m in found.results), "s")
    everything = work.prompts * work.samples * (work.prompt + work.completion)
    note = "prompt and answer tokens of every sample, as EasyR1 counts"
    results.add("step.all_tokens_per_s", everything / found.median, "tokens/s", note=note)
    results.add("step.compile_s", found.compile_s, "s", note="update, and rollout where it is another program")
    results.add("step.recompiled", found.recompiled, "count")
    if (peak := peak_gib()) is not None:
        results.add("step.peak_memory", peak, "GiB")
    results.save(trainable=program.parameters)


def _profile(results: Results, program: StepProgram) -> None:
    """The kernels of one rollout and of one update."""
    folder = results.path.parent / "profiles"
    batch, _ = program.step.prepare(program.state, next(program.batches))

    def update() -> None:
        program.state, _ = program.step.apply(program.state, batch, 0)
        jax.block_until_ready(program.state.trainable)

    update()
    seconds = profiled(update, folder / f"{results.item}_update.txt", 1)
    results.add("update.profiled_s", seconds, "s", note="with the profiler on")
    if results.left < PROFILED:
        return
    steps = program.config.rollout.length
    roll = lambda: jax.block_until_ready(program.step.prepare(program.state, next(program.batches)))  # noqa: E731
    seconds = profiled(roll, folder / f"{results.item}_decode.txt", steps)
    results.add("rollout.profiled_s", seconds, "s", note="with the profiler on")
