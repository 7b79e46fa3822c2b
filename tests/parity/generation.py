"""Every array of SET_generation.npz: greedy latent generation, and one RL step on what it generated.

N rows, L prompt length, T new tokens, K codes, V vocabulary.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from lam_jax.latent.agent import Agent
from lam_jax.models.inputs import Batch
from lam_jax.rl import ALGORITHMS, BatchCounts, loss_denominator, policy_loss
from lam_jax.rollout.actions import LatentActions
from lam_jax.rollout.engine import Rollout, RolloutConfig, rollout
from lam_jax.rollout.rescore import latent_logps, sample_positions
from lam_jax.rollout.sampling import SamplingConfig
from lam_jax.train.method import METHODS, Method
from tests.parity.case import Arrays, Case
from tests.parity.checks import Check

# The full softmax is scored whatever was sampled from.
SCORED = SamplingConfig().official()
GREEDY = dataclasses.replace(SCORED, temperature=0.0)
RL_INPUTS = ("rl/input_ids", "rl/attention_mask", "rl/completion_mask", "rl/completion_action_ids", "rl/ref_logps")
BETA = 0.01


def generation(agent: Agent, case: Case, given: Arrays) -> dict[str, Check]:
    """Checks by array name."""
    method = METHODS["official"]
    checks = {}
    for kind in ("mm", "txt"):
        prompts = case.batch(kind)
        space = LatentActions(agent, method.generating)
        out = generate(space, prompts, case.settings["gen_new_tokens"])
        checks |= {f"{kind}/{name}": check for name, check in _greedy(space, prompts, out).items()}
        if kind == "mm":
            checks |= {f"mm_nocache/{name}": check for name, check in _without_cache(space, prompts, out).items()}
    checks |= {name: Check(None, "input") for name in (*RL_INPUTS, "rl/advantages")}
    return checks | _rl(agent, case, method, given)


def generate(space: LatentActions, prompts: Batch, new_tokens: int) -> Rollout:
    """The likeliest code and token at each step, end-of-turn tokens ignored; one sample of each prompt."""
    ids = jnp.arange(prompts.tokens.shape[0], dtype=jnp.int32)[:, None]
    config = RolloutConfig(samples=1, length=new_tokens, sampling=GREEDY, stop=False)
    return jax.jit(rollout, static_argnames="config")(space, prompts, ids, jax.random.key(0), config=config)


def _greedy(space: LatentActions, prompts: Batch, out: Rollout) -> dict[str, Check]:
    """What the engine's cached decoding chose. Codes at prompt positions choose nothing; they are the policy's."""
    length = prompts.tokens.shape[1]

    @jax.jit
    def arrays(space: LatentActions, prompts: Batch, out: Rollout) -> dict[str, jax.Array]:
        hidden = jnp.concatenate([out.prompt_hidden, out.hidden[:, 0, :-1]], axis=1)
        before = _policy(space, prompts, out.prompt_hidden)[:, :-1]
        chosen = jnp.max(jax.nn.softmax(before, axis=-1), axis=-1)
        return {
            "sequences": jnp.concatenate([prompts.tokens, out.tokens[:, 0]], axis=1),
            "action_idx": jnp.concatenate([jnp.argmax(before, axis=-1), out.actions[:, 0]], axis=1),
            "action_probs": jnp.concatenate([chosen, jnp.exp(out.logps[:, 0])], axis=1),
            "logits": space.next_token_logits(hidden[:, length - 1 :], out.actions[:, 0], prompts.has_image),
        }

    real = np.concatenate([np.asarray(prompts.mask)[:, :-1], np.ones(out.actions[:, 0].shape, bool)], axis=1)
    per_position = ("action_idx", "action_probs")
    found = arrays(space, prompts, out)
    return {name: Check(value, where=real if name in per_position else None) for name, value in found.items()}


def _without_cache(space: LatentActions, prompts: Batch, out: Rollout) -> dict[str, Check]:
    """The same choices from full forward passes over the growing rows, padded on the right to one shape."""
    batch, length = prompts.tokens.shape
    new = out.tokens.shape[2]
    later = sample_positions(prompts, 1, new)[:, 0]
    rows = prompts.replace(
        tokens=jnp.concatenate([prompts.tokens, jnp.zeros((batch, new), jnp.int32)], axis=1),
        mask=jnp.concatenate([prompts.mask, jnp.zeros((batch, new), bool)], axis=1),
        positions=jnp.concatenate([prompts.positions, later], axis=2),
    )

    @jax.jit
    def forward(space: LatentActions, rows: Batch) -> tuple[jax.Array, jax.Array]:
        hidden = space.backbone.hidden(rows)
        action = jnp.argmax(_policy(space, rows, hidden), axis=-1)
        return action, jnp.argmax(space.next_token_logits(hidden, action, rows.has_image), axis=-1)

    for step in range(length, length + new):
        action, token = forward(space, rows)
        tokens = rows.tokens.at[:, step].set(token[:, step - 1].astype(jnp.int32))
        rows = rows.replace(tokens=tokens, mask=rows.mask.at[:, step].set(True))
    return {
        "sequences": Check(rows.tokens),
        "action_idx": Check(action[:, :-1], where=np.asarray(rows.mask[:, :-1])),
    }


def _policy(space: LatentActions, rows: Batch, hidden: jax.Array) -> jax.Array:
    """Code logits [N, L, K] of a full forward pass of the policy over pre-norm states."""
    x = space.agent.action_input(space.backbone.norm(hidden), rows.has_image, space.reading)
    return space.agent.latent.policy(x, space.backbone.rotary(rows.positions), rows.mask)


def _rl(agent: Agent, case: Case, method: Method, given: Arrays) -> dict[str, Check]:
    arrays = jax.jit(lambda agent: policy_step(agent, case, method, given))(agent)
    # Behind the end of a completion nothing is scored.
    scored = given["rl/completion_mask"].astype(bool)
    per_token = ("rl/logps", "rl/entropies")
    return {
        name: Check(np.asarray(value), where=scored if name in per_token else None) for name, value in arrays.items()
    }


def policy_step(agent: Agent, case: Case, method: Method, given: Arrays) -> dict[str, jax.Array]:
    """The RL loss as the trainer computes it: from recorded states through the policy blocks alone."""
    prompts = case.batch("mm")
    length = prompts.tokens.shape[1]
    tokens = jnp.asarray(given["rl/input_ids"], jnp.int32)
    mask = jnp.asarray(given["rl/attention_mask"], bool)
    active = jnp.asarray(given["rl/completion_mask"], bool)
    later = sample_positions(prompts, 1, tokens.shape[1] - length)[:, 0]
    positions = jnp.concatenate([prompts.positions, later], axis=2)
    hidden = agent.backbone.hidden(prompts.replace(tokens=tokens, mask=mask, positions=positions))
    out = _recorded(hidden, length, tokens, jnp.asarray(given["rl/completion_action_ids"], jnp.int32), active)
    logps, entropies = latent_logps(LatentActions(agent, method.acting), prompts, out, SCORED)
    logps, entropies = logps[:, 0], entropies[:, 0]
    algorithm = dataclasses.replace(ALGORITHMS["dapo"].official(), beta=BETA)
    count = jnp.sum(active).astype(jnp.float32)
    counts = BatchCounts(sequences=jnp.float32(active.shape[0]), tokens=count, local_batches=jnp.float32(1))
    denominator = loss_denominator(algorithm.normaliser, counts, active.shape[1])
    reference, advantages = (jnp.asarray(given[name]) for name in ("rl/ref_logps", "rl/advantages"))
    loss, metrics = policy_loss(algorithm, logps, None, reference, advantages, active, denominator)
    return {"rl/logps": logps, "rl/entropies": entropies, "rl/dapo_loss": loss, "rl/kl": metrics.means()["kl"]}


def _recorded(hidden: jax.Array, length: int, tokens: jax.Array, actions: jax.Array, active: jax.Array) -> Rollout:
    """A rollout of one sample a prompt, of which only what the update reads is filled in."""
    unread = jnp.zeros(active[:, None].shape, jnp.float32)
    return Rollout(
        tokens=tokens[:, None, length:],
        actions=actions[:, None],
        mask=active[:, None],
        logps=unread,
        logp_gap=unread,
        entropy=unread,
        support=None,
        prompt_hidden=hidden[:, :length],
        hidden=hidden[:, None, length:],
    )
