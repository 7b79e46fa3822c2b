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
    "rollout_latent",
    "rollout_token",
    "update_latent",
    "update_token",
]


@dataclasses.dataclass(frozen=True)
class Compile:
    """Checks whether training steps fit a TPU pod, by compiling them for it; no TPU is needed, and nothing is run.

    Prints memory per chip, operations, collectives and an estimate of the time at the chip's peak figures.
    Ends with code 1 if a step does not fit. Needs the extra `aot`: pip install 'lam_jax[aot]'.
    """

    preset: Preset
    """Size of the model."""
    topology: str
    """Chip and shape of the slice, e.g. v5e:4x4, v6e:16x16 or v5p:8x8x16."""
    stage: tuple[Stage, ...] = ()
    """Stages to compile."""
    all: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Compile every stage, the rollouts and the updates of both action spaces."""
    mesh: str | None = None
    """Sizes of the mesh, e.g. data=2,fsdp=4,tensor=2. Default: chosen from preset and topology."""
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
    out: Path | None = None
    """Folder that results are added to, as JSON."""
    markdown: Path | None = None
    """File for tables of all results in OUT. Default: OUT/README.md."""

    def __post_init__(self):
        if bool(self.stage) == self.all:
            raise ValueError("--stage and --all: expected one of them.")
        for name in ("rows", "prompts", "samples", "prompt", "completion"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise ValueError(f"--{name}: found {value}, expected at least 1.")
        if self.markdown and not self.out:
            raise ValueError("--markdown: expected --out, the folder of the results, beside it.")

    def run(self) -> None:
        """Compiles."""
        from lam_jax.aot.command import run_compile

        sizes = {name: getattr(self, name) for name in ("rows", "prompts", "samples", "prompt", "completion")}
        run_compile(
            self.preset,
            get_args(Stage) if self.all else self.stage,
            self.topology,
            self.mesh,
            {name: size for name, size in sizes.items() if size is not None},
            self.out,
            self.markdown or (self.out and self.out / "README.md"),
        )
