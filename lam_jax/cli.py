"""The `lam-jax` command. Each subcommand is a dataclass whose `run` does the work; jax is imported only there.

Exit codes: see `lam_jax.train.errors`.
"""

import dataclasses
import errno
import sys
import traceback
from pathlib import Path
from typing import Annotated, Literal, get_args

import tyro
from rich.console import Console

from lam_jax import __version__
from lam_jax.train.errors import NoSpaceError

Preset = Literal["tiny", "small", "mid", "qwen2_5_vl_3b", "qwen2_5_vl_7b"]
Task = Literal["role_play", "help"]
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
Algorithm = Literal["grpo", "dr_grpo", "dapo", "bnpo", "gspo", "cispo"]
BAD_FLAG = 2
INTERRUPTED = 130


@dataclasses.dataclass(frozen=True)
class Demo:
    """Runs the whole method on the built-in data set and writes a report.

    A small pretrained vision-language model is loaded, a latent action space is learned from it, task fine-tuning and
    reinforcement learning run in the latent and in the token action space, and OUT/report.html compares them. A run
    that was interrupted goes on where it stopped.
    """

    out: Path = Path("runs/demo")
    """Output folder: report, metrics (JSONL and TensorBoard), checkpoints."""
    seed: int = 0
    """Seed of everything random; two runs with one seed on one machine give identical metrics."""
    preset: Literal["tiny"] = "tiny"
    """Size of the model; the shipped base model is the tiny one."""
    task: tuple[Task, ...] = ("role_play", "help")
    """Tasks to train."""
    algorithm: Algorithm | None = None
    """Reinforcement learning algorithm for all tasks. Default: dapo for role_play, grpo for help."""
    mesh: tuple[int, int, int] = (1, 1, 1)
    """Sizes of the axes data, fsdp and tensor; their product is at most the number of devices, and all of them where
    several processes run together. A run may be resumed on another mesh."""
    save_every: int = 100
    """Optimiser updates between two checkpoints inside a phase; 0: only on SIGTERM."""
    profile: str | None = None
    """Phase, for example stage1_inverse, of which three steps are traced into OUT/profile (TensorBoard, Perfetto)."""

    def __post_init__(self):
        if not self.task or len(set(self.task)) < len(self.task):
            raise ValueError(f"--task: found {list(self.task)}, expected one or more different tasks.")
        if self.seed < 0:
            raise ValueError(f"--seed: found {self.seed}, expected a number that is not negative.")

    def run(self) -> None:
        """Runs the demo."""
        from lam_jax.demo import run_demo
        from lam_jax.parallel.processes import start
        from lam_jax.train.compilation import keep_compiled_programs
        from lam_jax.train.host_memory import keep_host_memory

        start()
        keep_compiled_programs()
        keep_host_memory()
        run_demo(
            self.out,
            seed=self.seed,
            preset=self.preset,
            tasks=self.task,
            algorithm=self.algorithm,
            mesh=self.mesh,
            save_every=self.save_every,
            profile=self.profile,
        )


@dataclasses.dataclass(frozen=True)
class Report:
    """Writes report.html and plots again from the results of a run."""

    folder: Annotated[Path, tyro.conf.Positional] = Path("runs/demo")
    """Output folder of the run."""

    def run(self) -> None:
        """Writes the report."""
        from lam_jax.evaluation.report import write_report

        Console().print(f"Wrote {write_report(self.folder)}", soft_wrap=True, highlight=False)


@dataclasses.dataclass(frozen=True)
class Convert:
    """Converts a checkpoint: Hugging Face or the released code's state dict into ours, or ours back.

    A target that ends in .safetensors or .npz becomes a state dict, any other a folder.
    """

    source: Annotated[Path, tyro.conf.Positional]
    """Folder or file to read."""
    target: Annotated[Path, tyro.conf.Positional]
    """Folder or file to write; it must not exist."""
    preset: Preset | None = None
    """Sizes of the backbone, for a state dict file alone; a Hugging Face folder holds its own."""
    config: Path | None = None
    """A config.json with the sizes, instead of a preset."""

    def __post_init__(self):
        if self.preset is not None and self.config is not None:
            raise ValueError("--preset and --config: found both, expected at most one.")

    def run(self) -> None:
        """Converts."""
        from lam_jax.latent.convert import convert, read_any_config
        from lam_jax.qwen.presets import PRESETS

        config = PRESETS[self.preset] if self.preset else read_any_config(self.config) if self.config else None
        report = convert(self.source, self.target, config)
        console = Console()
        console.print(f"{report.kind}: {report.tensors} tensors to {self.target}", soft_wrap=True, highlight=False)
        for name in report.skipped:
            console.print(f"skipped: {name}", soft_wrap=True, highlight=False)


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


@dataclasses.dataclass(frozen=True)
class Presets:
    """Lists the named model sizes with their numbers of parameters."""

    def run(self) -> None:
        """Prints the table."""
        from rich.table import Table

        from lam_jax.latent.config import LATENT_PRESETS
        from lam_jax.nn.weight import count
        from lam_jax.qwen.presets import PRESETS
        from lam_jax.rollout.agent import Agent

        table = Table(
            "preset", box=None, caption="weights in millions; policy is a part of latent", caption_justify="left"
        )
        for header in ("width", "layers", "vocabulary", "codes", "backbone", "latent", "policy"):
            table.add_column(header, justify="right", no_wrap=True)
        for name, config in PRESETS.items():
            agent = Agent.spec(config, LATENT_PRESETS[name])
            sizes = (count(agent.backbone), count(agent.latent), count(agent.latent.policy))
            text = config.text
            facts = (text.width, text.layers, text.vocab_size, LATENT_PRESETS[name].codes)
            table.add_row(name, *map(str, facts), *(f"{size / 1e6:,.1f}" for size in sizes))
        Console().print(table)


@dataclasses.dataclass(frozen=True)
class Watch:
    """Runs a command under a watchdog, which ends it and says why when a step hangs or another process has died.

    Put it before the command of every process of a run: `lam-jax watch --folder SHARED/beats -- lam-jax demo ...`
    """

    command: tyro.conf.Positional[tuple[str, ...]]
    """The command and its arguments, after --."""
    folder: Path = Path("runs/heartbeats")
    """Where the watchdogs of a run tell each other how it goes; every host must see it."""
    patience: float = 1800.0
    """Seconds without a further step after which the process counts as hanging; compiling counts too."""
    silence: float = 120.0
    """Seconds without news of another watchdog after which its host counts as dead."""
    grace: float = 30.0
    """Seconds in which a process may end by itself."""

    def run(self) -> int:
        """Watches; returns the exit code."""
        from lam_jax.train.watchdog import Limits, watch

        return watch(self.command, self.folder, Limits(self.patience, self.silence, self.grace))


COMMANDS = {
    "demo": Demo,
    "report": Report,
    "convert": Convert,
    "compile": Compile,
    "presets": Presets,
    "watch": Watch,
}


def exit_code(error: BaseException) -> int:
    """The code that the command ends with after `error`."""
    if isinstance(error, KeyboardInterrupt):
        return INTERRUPTED
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return NoSpaceError.exit_code
    return getattr(error, "exit_code", 1)


def is_expected(error: BaseException) -> bool:
    """Whether the message of an error says all; others are shown with their stack trace."""
    return isinstance(error, OSError | KeyboardInterrupt) or type(error).__module__.startswith("lam_jax.")


def _complain(error: BaseException) -> None:
    text = "interrupted" if isinstance(error, KeyboardInterrupt) else str(error)
    Console(stderr=True).print(f"lam-jax: {text}", style="red", soft_wrap=True, highlight=False, markup=False)


def main(args: list[str] | None = None) -> int:
    """Runs the command line; returns the exit code."""
    if (sys.argv[1:] if args is None else args) == ["--version"]:
        Console().print(f"lam_jax {__version__}", highlight=False)
        return 0
    try:
        command = tyro.extras.subcommand_cli_from_dict(
            COMMANDS,
            prog="lam-jax",
            description="Latent-action reinforcement learning of vision-language agents (arXiv 2601.07516).",
            args=args,
            config=(tyro.conf.OmitArgPrefixes,),
        )
    except ValueError as error:
        _complain(error)
        return BAD_FLAG
    try:
        return command.run() or 0
    except (Exception, KeyboardInterrupt) as error:
        if not is_expected(error):
            traceback.print_exc()
        _complain(error)
        return exit_code(error)
