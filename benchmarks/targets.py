"""Thresholds that the figures of preset `mid` are judged by (float32 on two cores)."""

from benchmarks.statistics import Target

MID: dict[str, Target] = {
    "rollout.token_over_torch": Target(3.5, "at least"),
    "rollout.latent_over_torch": Target(1.8, "at least"),
    "prefill.shared_over_distinct": Target(0.2, "at most"),
    "update.latent_over_torch": Target(0.45, "at most"),
    "update.token_over_torch": Target(1.0, "at most"),
    "decode.latent.floor_ratio": Target(2.2, "at most"),
    "decode.token.floor_ratio": Target(2.2, "at most"),
    **{f"update.{name}.peak_share": Target(0.4, "at least") for name in ("latent", "token", "token_matched")},
    **{
        f"stage.{name}.peak_share": Target(0.4, "at least")
        for name in ("inverse", "projector", "joint", "cloning", "sft_latent", "sft_token")
    },
}
