"""Useful FLOPs of policy updates, by formula."""

from benchmarks.programs import UpdateKind
from benchmarks.workload import METHOD, Workload
from lam_jax.train.counting import latent_update, plain_token_update, token_update


def update_flops(work: Workload, kind: UpdateKind) -> float:
    """Useful FLOPs of an update."""
    sizes = (work.prompts, work.samples, work.prompt, work.completion)
    if kind == "latent":
        return latent_update(work.config, work.latent, *sizes)
    if kind == "token":
        return token_update(work.config, METHOD.trained_blocks(work.config.text.layers), True, work.grid, *sizes)
    return token_update(work.config, work.latent.policy_layers, False, work.grid, *sizes)


def plain_update_flops(work: Workload) -> float:
    """Useful FLOPs of the token update as released, which shares nothing between the samples of a prompt."""
    sizes = (work.prompts, work.samples, work.prompt, work.completion)
    return plain_token_update(work.config, METHOD.trained_blocks(work.config.text.layers), work.grid, *sizes)
