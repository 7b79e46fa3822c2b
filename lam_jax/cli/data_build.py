"""`lam-jax data build`."""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro
from rich.console import Console

if TYPE_CHECKING:
    from lam_jax.corpora.build import Built, Sampling

BuildKind = Literal[
    "pretraining", "llava-next", "cc12m", "n24news", "wikiweb2m", "helpsteer3", "slimpajama", "mmrole", "pcogalign"
]
Dialogue = Literal["comment", "human-role", "inter-role"]
PUBLISHED, ALL = -1, 0


@dataclasses.dataclass(frozen=True)
class Build:
    """Builds a folder of checked records from a data set as its authors publish it; docs/corpora.md has the layouts.

    Rows that cannot be used are left out, counted by reason, and listed in OUT/drops.jsonl. A build that was
    interrupted leaves nothing; the same command again says that it is done.
    """

    kind: Annotated[BuildKind, tyro.conf.Positional]
    """What the sources are; pretraining: files of pre-training rows, and folders built before."""
    sources: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Files, or folders of them; the raw folder of mmrole and pcogalign."""
    out: Path = dataclasses.field(kw_only=True)
    """Folder to make."""
    image_root: Path | None = None
    """Folder that paths of pictures start from. Default: the file's own folder, or the raw folder."""
    rows: int = PUBLISHED
    """Rows that are drawn; 0: all. Default: the paper's number for the set."""
    seed: int = 42
    """Of the draw and of the splits."""
    held_out: float = 0.01
    """Share of the drawn rows that is held out; tasks have splits of their own."""
    pixels: int | None = None
    """Most pixels of a picture, larger ones are scaled down. Default: pictures keep their bytes."""
    workers: int = 8
    """Threads that read and check pictures."""
    dialogues: tuple[Dialogue, ...] = ("comment",)
    """Kinds of MMRole's dialogues."""
    judge: str | None = None
    """pcogalign: address of the OpenAI-compatible endpoint that writes missing golden answers, ending in /v1."""
    judge_model: str | None = None
    """pcogalign: the model's name there."""
    judge_settings: tuple[str, ...] = ()
    """pcogalign: further settings of the endpoint, NAME=VALUE, such as temperature=none, max_tokens=4096,
    token_limit=max_completion_tokens or api_key_env=MY_KEY (`lam_jax.JudgeConfig`)."""
    with_picture: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """pcogalign: the model sees the picture too, not its description alone."""

    def __post_init__(self):
        if not self.sources:
            raise ValueError("SOURCES: found none, expected one file or folder or more.")
        if self.rows < PUBLISHED:
            raise ValueError(f"--rows: found {self.rows}, expected a number of rows, or 0 for all.")
        if (self.judge is None) != (self.judge_model is None):
            raise ValueError("--judge and --judge-model: found one of them, expected both or none.")
        if self.judge_settings and self.judge is None:
            raise ValueError("--judge-settings: expected --judge beside it.")
        task = self.kind in ("mmrole", "pcogalign")
        if task and len(self.sources) > 1:
            raise ValueError(f"SOURCES: found {len(self.sources)}, expected the one raw folder of {self.kind}.")
        if task and self.rows > 0:
            raise ValueError(
                f"--rows: found {self.rows}, expected none: the splits of {self.kind} have their own sizes."
            )
        if self.judge is not None and self.kind != "pcogalign":
            raise ValueError(f"--judge: only pcogalign has answers to be written, not {self.kind}.")

    def run(self) -> None:
        """Builds, and prints what was read, kept and left out."""
        console = Console()
        for name, built in self._build().items():
            _print(console, name, built)

    def _build(self) -> "dict[str, Built]":
        from lam_jax.corpora import kinds
        from lam_jax.corpora.golden import ANSWER, GoldenWriter, build_pcogalign_golden
        from lam_jax.rewards.judge_config import judge_config

        sampling = self._sampling()
        raw = self.sources[0]
        out = str(self.out)
        if self.kind == "pretraining":
            built = kinds.build_pretraining(self.sources, self.out, sampling, self.image_root)
            return {str(self.out / side): done for side, done in built.items()}
        if self.kind == "mmrole":
            images = self.image_root or (raw / "images" if (raw / "images").is_dir() else raw)
            return {out: kinds.build_mmrole(raw, self.out, sampling, images, self.dialogues)}
        if self.kind == "pcogalign":
            writer = None
            if self.judge is not None:
                endpoint = judge_config(
                    self.judge, str(self.judge_model), (f"max_tokens={ANSWER}", *self.judge_settings)
                )
                writer = GoldenWriter(endpoint, self.with_picture)
            return {out: build_pcogalign_golden(raw, self.out, sampling, self.image_root or raw, writer)}
        return {out: kinds.build_corpus(self.kind, self.sources, self.out, sampling, self.image_root)}

    def _sampling(self) -> "Sampling":
        from lam_jax.corpora.build import Sampling
        from lam_jax.corpora.kinds import KINDS

        published = KINDS[self.kind].rows if self.kind in KINDS else None
        rows = published if self.rows == PUBLISHED else self.rows or None
        return Sampling(rows, self.seed, self.held_out, self.pixels, self.workers)


def _print(console: Console, name: str, built: "Built") -> None:
    about = built.about

    def say(text: str) -> None:
        console.print(text, soft_wrap=True, highlight=False, markup=False)

    say(f"{name}: there already, built from the same arguments" if built.was_there else f"{name}: built")
    kept = sum(about.rows.values())
    splits = ", ".join(f"{split} {count}" for split, count in about.rows.items())
    say(f"  read {about.read}, kept {kept} ({splits}), dropped {sum(about.dropped.values())}")
    for reason, count in about.dropped.items():
        first = built.drops.first(reason)
        say(f"    {count:>8} {reason}" + (f", first in {first.where}" if first else ""))
    usable = about.read - sum(about.dropped.values())
    if usable > kept:
        say(f"  {usable - kept} usable rows were not drawn")
    if about.stands_for and about.stands_for > about.rows.get("train", 0):
        say(f"  train stands for {about.stands_for} rows, as many as the other side has: its rows come again")
    if "no answer from the model" in about.dropped:
        say(f"  To ask again for those without an answer, delete {name} and run the command again; answers are kept.")
