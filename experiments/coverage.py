"""Coverage and robustness of the codes with and without a part of the method: the seed's first and third experiments.

    .venv/bin/python -m experiments.coverage                      # 5 variants x 3 seeds, stages 1 to 4 of each
    .venv/bin/python -m experiments.reproduction_page             # the tables of docs/reproduction.md

On held-out image-text rows the inverse model infers a code for every token of the reference: from the row as it is,
from its text form (picture withheld, states mapped by the projector, as a text-only row is read), and under faults of
the picture. How often is it the code of the row as it is, and how well do the codes still rebuild the reference? Which
codes do held-out text-only rows use, and do image-text rows stay among them? Phases are shared with the ablations
where they lie in one folder. A variant that has its file is not run again.
"""

import dataclasses
import datetime
import functools
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from flax import struct

from experiments.ablations import ablated
from lam_jax.data.loader import in_order
from lam_jax.hosts.start import start_process
from lam_jax.latent.agent import Agent, Reading
from lam_jax.losses import target_mask
from lam_jax.models.inputs import Batch
from lam_jax.pipeline import learn_actions, open_run
from lam_jax.pipeline.content import content_of
from lam_jax.pipeline.resources import Resources
from lam_jax.pipeline.results import environment
from lam_jax.pipeline.shares import Shares
from lam_jax.recipe import PAIRED, TEXT_ONLY
from lam_jax.runs.phase_store import PhaseStore
from lam_jax.train.stages.inverse_pass import frozen_states, inverse_logits

VARIANTS = ("full", "no_cycle", "no_projector", "no_text_only", "noisy_pictures")
NOISES = (0.25, 0.5, 1.0, 2.0)
ROWS = 256
BATCH = 32
SEEDS = (0, 1, 2)


class NoisyTower(struct.PyTreeNode):
    """A vision tower whose output has Gaussian noise added, `scale` times the root mean square of the output."""

    tower: Any
    scale: jax.Array
    key: jax.Array

    def __call__(self, *args: Any, **kwargs: Any) -> jax.Array:
        seen = self.tower(*args, **kwargs)
        size = jnp.sqrt(jnp.mean(jnp.square(seen.astype(jnp.float32))))
        return seen + (self.scale * size * jax.random.normal(self.key, seen.shape)).astype(seen.dtype)


def noisy(agent: Agent, scale: float, key: jax.Array) -> Agent:
    """The agent with noise on its vision states."""
    backbone: Any = agent.backbone
    return agent.replace(backbone=backbone.replace(vision=NoisyTower(backbone.vision, jnp.float32(scale), key)))


def on_pixels(batch: Batch, scale: float) -> Batch:
    """Rows with Gaussian noise on their pixels, `scale` times the root mean square of the normalised pixels."""
    assert batch.images is not None
    patches = np.asarray(batch.images.patches)
    noise = np.random.default_rng(0).normal(size=patches.shape) * np.sqrt(np.mean(np.square(patches)))
    return batch.replace(images=batch.images.replace(patches=(patches + scale * noise).astype(patches.dtype)))


def of_another(batch: Batch) -> Batch:
    """Each row with the picture of the row before it; rows have one picture of one size."""
    return batch.replace(images=jax.tree.map(lambda x: np.roll(np.asarray(x), 1, axis=0), batch.images))


def text_form(batch: Batch) -> Batch:
    """Rows as text-only rows: the picture withheld, and the states to be projected."""
    return batch.without_images().replace(has_image=np.zeros(len(batch.tokens), bool))


@dataclasses.dataclass(frozen=True)
class Seen:
    """What the inverse model inferred at the M positions whose next token is of a reference.

    Attributes:
        code: int [M].
        logp: [M], log-probability of the next token under the code.
        backbone_logp: [M], without a code.
    """

    code: np.ndarray
    logp: np.ndarray
    backbone_logp: np.ndarray


@functools.partial(jax.jit, static_argnames=("reading",))
def _look(agent: Agent, batch: Batch, reading: Reading) -> tuple[jax.Array, ...]:
    states = frozen_states(agent, batch)
    x = agent.action_input(states, batch.has_image, reading)
    code = jnp.argmax(inverse_logits(agent, x, batch), axis=-1)
    out = agent.read(x, agent.latent.look_up(code), reading)
    following = jnp.roll(batch.tokens, -1, axis=1)[..., None]

    def said(states: jax.Array) -> jax.Array:
        logp = jax.nn.log_softmax(agent.backbone.logits(states), axis=-1)
        return jnp.take_along_axis(logp, following, axis=-1)[..., 0]

    return code, said(out), said(states), target_mask(batch.valid, batch.mask, batch.response)


def look(agent: Agent, batches: Iterable[Batch], reading: Reading) -> Seen:
    """Codes at the references of rows."""
    parts: list[list[np.ndarray]] = []
    for batch in batches:
        *values, keep = jax.device_get(_look(agent, batch, reading))
        parts.append([value[keep] for value in values])
    return Seen(*(np.concatenate(values) for values in zip(*parts)))


def usage(seen: Seen, codes: int) -> np.ndarray:
    """Shares of the codes, [K]."""
    return np.bincount(seen.code, minlength=codes) / len(seen.code)


def perplexity(shares: np.ndarray) -> float:
    """exp of the entropy: how many codes, used equally often, would be as spread out."""
    some = shares[shares > 0]
    return float(np.exp(-(some * np.log(some)).sum()))


def figures(seen: Seen, clean: Seen, codes: int) -> dict[str, float]:
    """What became of the codes of the clean rows."""
    own, theirs = usage(seen, codes), usage(clean, codes)
    return {
        "agreement": float(np.mean(seen.code == clean.code)),
        "by_chance": float((own * theirs).sum()),  # agreement of two draws from the two usages
        "overlap": float(np.minimum(own, theirs).sum()),
        "perplexity": perplexity(own),
        "logp": float(seen.logp.mean()),
        "backbone_logp": float(seen.backbone_logp.mean()),
    }


def measure(agent: Agent, paired: list[Batch], text_only: list[Batch], reading: Reading) -> dict[str, Any]:
    """The figures of one agent after stage 4.

    Args:
        agent: on one device.
        paired: held-out image-text rows.
        text_only: held-out text-only rows.
        reading: of the world model in stages 1 to 4.
    """
    codes = agent.latent.config.codes
    clean = look(agent, paired, reading)
    conditions: dict[str, tuple[Agent, Iterator[Batch]]] = {
        "as it is": (agent, iter(paired)),
        "text form": (agent, map(text_form, paired)),
        "picture withheld": (agent, (batch.without_images() for batch in paired)),
        "another row's picture": (agent, map(of_another, paired)),
    }
    conditions |= {
        f"noise {scale:g} on vision states": (noisy(agent, scale, jax.random.key(0)), iter(paired)) for scale in NOISES
    }
    conditions |= {f"noise {scale:g} on pixels": (agent, (on_pixels(b, scale) for b in paired)) for scale in NOISES}
    text = usage(look(agent, text_only, reading), codes)
    own = usage(clean, codes)
    used = text > 0.1 / codes  # more than a tenth of an equal share
    return {
        "positions": len(clean.code),
        "codes": codes,
        "conditions": {name: figures(look(a, rows, reading), clean, codes) for name, (a, rows) in conditions.items()},
        "text_only": {
            "perplexity": perplexity(text),
            "used": int(used.sum()),
            "image_text_within": float(own[used].sum()),  # image-text positions whose code text-only rows use
            "overlap": float(np.minimum(own, text).sum()),
        },
    }


def rows_of(resources: Resources) -> tuple[list[Batch], list[Batch]]:
    """Held-out rows of both kinds."""
    recipe = resources.recipe
    text = recipe.text_only
    assert text is not None
    found = []
    for source, corpus in ((PAIRED, recipe.paired), (TEXT_ONLY, text)):
        examples = resources.first(source, corpus.held_out, ROWS)
        found.append([made.batch for made in in_order(examples, resources.chats[source], BATCH)])
    return found[0], found[1]


@dataclasses.dataclass(frozen=True)
class Config:
    """What is trained, and where it is written."""

    out: Path = Path("runs/coverage")
    phases: Path = Path("runs/ablations/phases")
    """Stages that are shared with the ablations."""
    results: Path = Path("experiments/results/coverage")
    variants: tuple[str, ...] = VARIANTS
    seeds: tuple[int, ...] = SEEDS


def main(config: Config) -> None:
    start_process()
    for seed in config.seeds:
        for variant in config.variants:
            file = config.results / f"{variant}_{seed}.json"
            if file.exists():
                continue
            recipe = ablated(seed, variant)
            with open_run(recipe, config.out / f"{variant}_{seed}", save_every=100) as (run, resources):
                shares = Shares(recipe, content_of(recipe), resources.mesh)
                run.share(PhaseStore(config.phases, lambda phase, run=run, own=shares: own.key(run.phases, phase)))
                agent = learn_actions(run, resources, resources.base_agent())
                found = measure(agent, *rows_of(resources), recipe.method.learning)
            record = {
                "command": "python -m experiments.coverage",
                "variant": variant,
                "seed": seed,
                "finished": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
                "environment": environment(),
                **found,
            }
            config.results.mkdir(parents=True, exist_ok=True)
            file.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
            print(f"{file}: {found['conditions']['text form']}", flush=True)


if __name__ == "__main__":
    main(tyro.cli(Config))
