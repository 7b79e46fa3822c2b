"""Rollouts in both action spaces: tokens/s, prefill shared by samples, decode against its read floor, and the parts.

    python -m benchmarks.rollout --preset mid --json rollout.json
    python -m benchmarks.rollout --preset mid --rollout-weights int8

With `--rollout-weights` rollouts of codes whose decode steps hold the frozen backbone so are timed beside the others,
in the same rounds: rollout.latent_int8. Completions of forced equal length first, natural lengths second.
"""

from collections.abc import Sequence

import jax.numpy as jnp
import tyro

from benchmarks.breakdown import components
from benchmarks.programs import PrefillProgram, RolloutProgram, rollout_programs, with_natural_ends
from benchmarks.session import Options, Session
from benchmarks.workload import make_agent, prompts, rl_config, spaces
from lam_jax.train.counting import decode_bytes
from lam_jax.train.spaces import SPACES


def run(options: Options) -> list:
    """Times everything and returns the records."""
    session = Session(options)
    work = session.work
    agent = make_agent(work)
    batch = prompts(work)
    forced = rollout_programs(agent, work, options.rollout_weights)
    started = {f"prefill_{name}": PrefillProgram(s, batch) for name, s in spaces(agent).items()}
    times = session.compare({**forced, **started}).seconds
    for name, program in forced.items():
        space, held = SPACES[name.partition("_")[0]], program.config.weights
        item = jnp.dtype(work.config.dtype).itemsize
        sizes = (work.prompts, work.samples, work.prompt, work.completion, item)
        head = "same" if space.emits else held
        needed = decode_bytes(work.config, work.latent if space.coded else None, *sizes, held, head)
        steps = _decode_seconds(times[name], times[f"prefill_{space.name}"], work.completion)
        note = "" if held == "same" else f"backbone in {held}"
        session.add(f"rollout.{name}.tokens_per_s", [work.tokens / s for s in times[name]], "tokens/s", note=note)
        if held == "same":
            session.add(f"prefill.{name}.s", times[f"prefill_{name}"], "s")
        else:
            session.add_ratio(f"rollout.{name}_over_{space.name}", times[space.name], times[name], note="speed")
        session.add(f"decode.{name}.step_s", steps, "s", lambda p, n=needed: n.total / p.bytes_per_s)
        title = f"decode.{name}.floor_ratio"
        session.add_over_floor(title, steps, lambda p, n=needed: n.total / p.bytes_per_s)
    session.add_ratio("rollout.latent_over_token", times["latent"], times["token"])
    _shared_prefill(session, agent)
    _natural(session, agent)
    components(session, agent)
    return session.finish()


def _decode_seconds(whole: Sequence[float], prefill: Sequence[float], steps: int) -> list[float]:
    return [(a - b) / steps for a, b in zip(whole, prefill)]


def _shared_prefill(session: Session, agent) -> None:
    """G samples of one prompt need one prefill; G prompts need G."""
    space = spaces(agent)["latent"]
    one, many = (prompts(session.work, count) for count in (1, session.work.samples))
    times = session.compare({"one": PrefillProgram(space, one), "distinct": PrefillProgram(space, many)}).seconds
    name = "prefill.shared_over_distinct"
    session.add_ratio(name, times["one"], times["distinct"])


def _natural(session: Session, agent) -> None:
    """Rows end on their own; the rate counts the tokens up to the ends."""
    work = session.work
    for name in ("latent", "token"):
        ending = with_natural_ends(agent, work, name)
        program = RolloutProgram(spaces(ending)[name], prompts(work), rl_config(work, name, stop=True).rollout)
        lengths: list[float] = []

        def counted(program=program, lengths=lengths):
            out = program()
            lengths.append(float(out.lengths.sum()))
            return out

        seconds = session.compare({"natural": counted}).seconds["natural"]
        # Thrown-away repeats and warm-up ran too; the mean length of all runs is that of the timed ones.
        tokens = sum(lengths) / len(lengths)
        note = f"mean length {tokens / (work.prompts * work.samples):.0f} of {work.completion}"
        session.add(f"rollout.{name}.natural.tokens_per_s", [tokens / s for s in seconds], "tokens/s", note=note)


if __name__ == "__main__":
    run(tyro.cli(Options, description=__doc__))
