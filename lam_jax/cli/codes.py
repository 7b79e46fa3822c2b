"""`lam-jax codes`."""

import dataclasses
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console


@dataclasses.dataclass(frozen=True)
class Codes:
    """Writes an atlas of an agent's codes: one HTML page that needs no other file.

    It shows where each code is used, which tokens it stands for and which it raises and lowers, what answers become
    when it is forced, what RL changed, and which numbers show that something went wrong.
    """

    agent: Annotated[Path | None, tyro.conf.Positional] = None
    """A run, or an exported or converted agent in the latent space. Default: the newest run below runs/."""
    out: Path = Path("atlas.html")
    """Page to write; an older one is replaced."""
    json: Path | None = None
    """File for the same numbers, JSON."""
    rows: Path | None = None
    """Rows to look at, of any format that `lam-jax generate` reads. Default: the run's own tests and held-out
    pre-training rows. Where a row has no answer, the agent's own is taken."""
    image_root: Path | None = None
    """Folder that relative paths of pictures start from, and that pictures must lie in. Default: that of ROWS."""
    picture_folders: tuple[str, ...] = ()
    """Further folders that pictures may lie in, absolute or behind links."""
    facts: tuple[str, ...] = ()
    """Other columns that the rows may have: "character" or "speaker" says who speaks."""
    task: str | None = None
    """Task, of a run with several. Default: the one that has come furthest."""
    per_set: int = 64
    """Rows of each test, corpus or file."""
    positions: int = 512
    """Positions whose next token is computed under every code; a large vocabulary allows fewer."""
    prompts: int = 32
    """Prompts that the agent answers, before RL and after it."""
    samples: int = 4
    """Answers to each of them at --temperature, which show dullness."""
    temperature: float = 1.0
    """Of these answers."""
    forced: int = 3
    """Prompts that are answered with one code forced throughout, for every code; 0: none."""
    length: int | None = None
    """Most tokens of a forced answer. Default: the agent's own."""
    batch: int | None = None
    """Rows at a time; needs memory, changes no number but by rounding. Default: the agent's own."""
    seed: int = 0
    """Of draws."""

    def __post_init__(self):
        for name in ("per_set", "positions", "prompts", "samples", "length", "batch"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise ValueError(f"--{name.replace('_', '-')}: found {value}, expected at least 1.")
        for name in ("forced", "seed"):
            if getattr(self, name) < 0:
                raise ValueError(f"--{name}: found {getattr(self, name)}, expected 0 or more.")
        if not 0 < self.temperature < float("inf"):
            raise ValueError(f"--temperature: found {self.temperature}, expected more than 0.")

    def run(self) -> None:
        """Looks and writes."""
        from lam_jax.agents.atlas import AtlasSettings, code_atlas
        from lam_jax.agents.run_folder import newest_run
        from lam_jax.data.layouts import RowParser
        from lam_jax.parallel.multihost import is_first

        names = ("positions", "prompts", "samples", "temperature", "forced", "length", "batch", "seed")
        settings = AtlasSettings(self.per_set, **{name: getattr(self, name) for name in names})
        atlas = code_atlas(
            self.agent or newest_run(),
            out=self.out,
            json_out=self.json,
            rows=self.rows,
            task=self.task,
            image_root=self.image_root,
            parser=RowParser(self.facts, self.picture_folders),
            settings=settings,
        )
        if is_first():
            console = Console()
            for sign in atlas["signs"]:
                console.print(f"{sign['status']:>13}  {sign['sign']}", highlight=False, markup=False)
            console.print(f"Wrote {self.out}", highlight=False, markup=False, soft_wrap=True)
