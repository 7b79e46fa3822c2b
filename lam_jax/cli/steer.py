"""`lam-jax steer`."""

import dataclasses
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.console import Console
from rich.table import Table
from rich.text import Text


@dataclasses.dataclass(frozen=True)
class Steer:
    """Measures how well a property of answers can be set by biasing codes.

    Codes are found from rows with the property and without, a bias of several strengths is put on them, and the share
    of answers with the property is compared with a bias on tokens and with asking for it, at equal fluency.
    """

    agent: Annotated[Path | None, tyro.conf.Positional] = None
    """A run, or an exported or converted agent in the latent space. Default: the newest run below runs/."""
    property: tuple[str, ...] = ("long", "question")
    """long, question, contains:WORD,.., first:WORD:OTHER,.., register:SPEAKER, or registers for every speaker's."""
    rows: Path | None = None
    """Rows with answers, of any format that `lam-jax generate` reads. Default: the tests of the run's task."""
    image_root: Path | None = None
    """Folder that relative paths of pictures start from, and that pictures must lie in. Default: that of ROWS."""
    picture_folders: tuple[str, ...] = ()
    """Further folders that pictures may lie in, absolute or behind links."""
    facts: tuple[str, ...] = ()
    """Other columns that the rows may have: "character" or "speaker" says who speaks."""
    out: Path | None = None
    """File for the result, JSON."""
    task: str | None = None
    """Task, of a run with several. Default: the one that has come furthest."""
    per_set: int = 96
    """Rows of each test or file: every second one shows what the property looks like, the others are prompts."""
    prompts: int = 48
    """Prompts at most."""
    strengths: tuple[float, ...] = (0.1, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0)
    """Multiples of the log-odds that are added to the logits; 0 comes by itself."""
    samples: int = 2
    """Answers to a prompt at each strength."""
    temperature: float = 1.0
    """Of the draws of codes; 0 is greedy."""
    token_temperatures: tuple[float, ...] = (1.0, 0.3)
    """Of the draws of tokens, each compared by itself."""
    loss: float = 0.2
    """Nats a token of fluency that steering may cost."""
    batch: int | None = None
    """Rows at a time. Default: the agent's own."""
    seed: int = 0
    """Of draws."""

    def __post_init__(self):
        for name in ("per_set", "prompts", "samples", "batch"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise ValueError(f"--{name.replace('_', '-')}: found {value}, expected at least 1.")
        for name in ("temperature", "loss", "token_temperatures"):
            value = getattr(self, name)
            if any(not 0 <= one < float("inf") for one in (value if isinstance(value, tuple) else (value,))):
                raise ValueError(f"--{name.replace('_', '-')}: found {value}, expected 0 or more.")
        if self.seed < 0:
            raise ValueError(f"--seed: found {self.seed}, expected 0 or more.")

    def run(self) -> None:
        """Measures, and prints a table."""
        from lam_jax.agents.run_folder import newest_run
        from lam_jax.agents.steer import SteerSettings, steer_agent
        from lam_jax.data.layouts import RowParser
        from lam_jax.parallel.multihost import is_first

        names = ("prompts", "strengths", "samples", "temperature", "token_temperatures", "loss", "batch", "seed")
        found = steer_agent(
            self.agent or newest_run(),
            self.property,
            rows=self.rows,
            out=self.out,
            task=self.task,
            image_root=self.image_root,
            parser=RowParser(self.facts, self.picture_folders),
            settings=SteerSettings(self.per_set, **{name: getattr(self, name) for name in names}),
        )
        if is_first():
            Console().print(_table(found))


def _table(found: dict[str, Any]) -> Table:
    judge, loss = found["judge"], found["settings"]["loss"]
    table = Table(
        title=f"{found['prompts']} prompts; at most {loss:g} nats a token less fluent than unsteered codes, judged by "
        f"the backbone of the {judge['space']} agent after {judge['phase']}; 95 % intervals over prompts"
    )
    for name in ("property", "method", "share", "gain over unsteered codes", "strength", "fluency"):
        table.add_column(name, justify="left" if name in ("property", "method") else "right", overflow="fold")
    for one in found["properties"]:
        for row in one["table"]:
            table.add_row(
                Text(one["name"] if row["method"] == "codes" else ""),  # no markup: a user's words
                row["method"],
                _interval(row["share"], row["low"], row["high"]),
                _interval(row["gain"], row["gain_low"], row["gain_high"]),
                "-" if row["strength"] is None else f"{row['strength']:g}",
                "-" if row["fluency"] is None else f"{row['fluency']:.2f}",
            )
        table.add_section()
    return table


def _interval(value: float | None, low: float | None, high: float | None) -> str:
    if value is None:
        return "none as fluent"
    return f"{value:.2f}" if low is None or high is None else f"{value:.2f} ({low:.2f} to {high:.2f})"
