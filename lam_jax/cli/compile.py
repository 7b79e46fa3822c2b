"""`lam-jax compile`."""

import dataclasses
from pathlib import Path
from typing import Annotated, Literal, get_args

import tyro

from lam_jax.cli.presets import Preset

Stage = Literal[
    "inverse",
    "projector",
    "joint",
    "cloning",
    "sft_latent",
    "sft_token",
    "sft_learn",
    "rollout_latent",
    "rollout_hybrid",
    "rollout_token",
    "update_latent",
    "update_hybrid",
    "update_token",
]

SIZES = ("rows", "prompts", "samples", "prompt", "completion", "micro_batches")


@dataclasses.dataclass(frozen=True)
class Compile:
    """Checks whether training steps fit a TPU pod or NVIDIA cards, by compiling them; none is needed, nothing is run.

    Prints memory per chip, operations, collectives, an estimate of the time at the chip's peak figures, and of rollouts
    what a decode step costs. Ends with code 1 if a step does not fit.
    Needs an extra: pip install 'lam_jax[aot]' for TPUs, 'lam_jax[aot-gpu]' for NVIDIA cards.
    """

    preset: Preset
    """Size of the model."""
    topology: str
    """Chip and shape of the slice, e.g. v5e:4x4, v6e:16x16 or v5p:8x8x16; or card and number of cards, e.g. h100:8,
    with several hosts h100:2x8 (h100, h200, a100, a100-40gb, l40s, rtx4090)."""
    stage: tuple[Stage, ...] = ()
    """Stages to compile."""
    all: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Compile every stage, the rollouts and the updates of all action spaces."""
    dtype: Literal["bfloat16", "float32"] | None = None
    """What programs compute in, and weights that do not train are held in. Default: that of the preset."""
    rollout_weights: Literal["same", "bfloat16", "int8"] = "same"
    """How rollouts of latent and hybrid actions hold the frozen backbone; see `lam-jax train`."""
    mesh: str | None = None
    """Sizes of the mesh, e.g. data=2,fsdp=4,tensor=2. Default: chosen from preset and topology."""
    rollout_mesh: str = "auto"
    """Sizes of the mesh of rollouts, over the same chips; same: that of everything else; auto: chosen by its cost."""
    rows: int | None = None
    """Rows of a batch in stages 1 to 5. Default: one a chip."""
    prompts: int | None = None
    """Prompts of a rollout. Default: one for every four chips."""
    samples: int = 8
    """Completions of each prompt."""
    prompt: int = 1024
    """Tokens of a prompt, those of its image included."""
    completion: int = 1024
    """Tokens of a completion."""
    micro_batches: int = 1
    """Parts of an update's prompts that are run one after the other; see `lam-jax train`."""
    out: Path | None = None
    """Folder that results are added to, as JSON."""
    markdown: Path | None = None
    """File for tables of all results in OUT. Default: OUT/README.md."""

    def __post_init__(self):
        if bool(self.stage) == self.all:
            raise ValueError("--stage and --all: expected one of them.")
        for name in SIZES:
            if (value := getattr(self, name)) is not None and value < 1:
                raise ValueError(f"--{name.replace('_', '-')}: found {value}, expected at least 1.")
        tokens = [stage for stage in (get_args(Stage) if self.all else self.stage) if stage.endswith("_token")]
        if self.rollout_weights != "same" and set(tokens) & {"rollout_token", "update_token"}:
            raise ValueError(
                f"--rollout-weights: found {self.rollout_weights} with {'--all' if self.all else tokens[0]}; expected "
                "no rollout or update of tokens, which would be drawn by another policy than is scored. Name stages of "
                "latent or hybrid actions."
            )
        if self.markdown and not self.out:
            raise ValueError("--markdown: expected --out, the folder of the results, beside it.")

    def run(self) -> None:
        """Compiles."""
        from lam_jax.aot.command import run_compile

        sizes = {name: getattr(self, name) for name in SIZES}
        run_compile(
            self.preset,
            get_args(Stage) if self.all else self.stage,
            self.topology,
            self.mesh,
            {name: size for name, size in sizes.items() if size is not None},
            self.out,
            self.markdown or (self.out and self.out / "README.md"),
            self.dtype,
            self.rollout_weights,
            self.rollout_mesh,
        )
