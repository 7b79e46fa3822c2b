"""`lam-jax generate`."""

import dataclasses
from pathlib import Path
from typing import Annotated

import tyro

from lam_jax.cli.spaces import SpaceName


@dataclasses.dataclass(frozen=True)
class Generate:
    """Answers a file of rows with an agent; interrupted, the same command goes on.

    Each line of the output is a row's id and its answers. Beside it lies OUTPUT.settings.json, which says what it
    belongs to: another agent, other rows or other settings are refused.
    """

    agent: Annotated[Path, tyro.conf.Positional]
    """A run, an exported agent, a Hugging Face Qwen2.5-VL or Qwen3-VL, or a folder of `lam-jax convert`."""
    input: Path
    """Rows, .json, .jsonl (also .gz or .zst), .parquet or a folder of datasets: chats, LLaVA and ShareGPT
    conversations, prompts of TRL, problems of EasyR1; a reference answer is optional and not shown."""
    output: Path
    """File to write, a line a row (JSON Lines)."""
    image_root: Path | None = None
    """Folder that relative paths of pictures start from, and that pictures must lie in. Default: that of INPUT."""
    picture_folders: tuple[str, ...] = ()
    """Further folders that pictures may lie in, absolute or behind links."""
    facts: tuple[str, ...] = ()
    """Other columns that the rows may have; they are not shown."""
    samples: int = 1
    """Answers to each row."""
    temperature: float | None = None
    """Of the draws; 0 is greedy. Default: the agent's own."""
    length: int | None = None
    """Most tokens of an answer. Default: the agent's own."""
    batch: int | None = None
    """Rows that are answered at a time; needs memory, changes no draw. Default: the agent's own."""
    seed: int = 0
    """Of the draws."""
    codes: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Write the code behind each token (latent space)."""
    logps: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Write the log-probability of each action."""
    task: str | None = None
    """Task, where AGENT is a run with several."""
    space: SpaceName | None = None
    """Action space, where AGENT has several."""
    mesh: tuple[int, int, int] = (1, 1, 1)
    """Sizes of the axes data, fsdp and tensor."""

    def __post_init__(self):
        for name in ("samples", "length", "batch"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise ValueError(f"--{name}: found {value}, expected at least 1.")
        if self.temperature is not None and not 0 <= self.temperature < float("inf"):
            raise ValueError(f"--temperature: found {self.temperature}, expected 0 (greedy) or more.")
        if self.seed < 0:
            raise ValueError(f"--seed: found {self.seed}, expected a number that is not negative.")

    def run(self) -> None:
        """Answers."""
        from lam_jax.agents.answer_file import Request, answer_file
        from lam_jax.agents.load import find
        from lam_jax.data.layouts import RowParser
        from lam_jax.hosts.start import start_process

        start_process()
        folder = find(self.agent, self.task, self.space)
        settings = folder.settings
        sampling = settings.sampling
        if self.temperature is not None:
            sampling = dataclasses.replace(sampling, temperature=self.temperature)
        length = settings.answer_length if self.length is None else self.length
        request = Request(self.samples, sampling, length, self.seed, self.codes, self.logps)
        options = {"image_root": self.image_root, "parser": RowParser(self.facts, self.picture_folders)}
        answer_file(folder, self.input, self.output, request, batch=self.batch, mesh=self.mesh, **options)
