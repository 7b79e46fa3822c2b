"""`lam-jax chat`."""

import dataclasses
from pathlib import Path
from typing import Annotated

import tyro

from lam_jax.cli.spaces import SpaceName


@dataclasses.dataclass(frozen=True)
class Chat:
    """Talks with an agent about pictures, and lets its codes be forced, forbidden, biased and replayed.

    Reads questions and commands from the terminal, or from standard input as a script; /help lists the commands.
    """

    agent: Annotated[Path | None, tyro.conf.Positional] = None
    """A run, an exported agent, a Hugging Face Qwen2.5-VL or Qwen3-VL, or a folder of `lam-jax convert`. Default: the
    newest run below runs/."""
    image: tuple[Path, ...] = ()
    """Pictures of the first question."""
    beside: str | None = None
    """Another agent that answers the same questions: its folder, or the name of another space of the same run. The two
    answers stand in columns where there are 100 or more."""
    system: str | None = None
    """Text of a system message. Default: none of one's own."""
    temperature: float | None = None
    """Of the draws; 0 is greedy. Default: the agent's own."""
    top_k: int | None = None
    """Likeliest actions to draw from. Default: the agent's own."""
    top_p: float | None = None
    """Share of the probability to draw from. Default: the agent's own."""
    length: int | None = None
    """Most tokens of an answer. Default: the agent's own."""
    seed: int = 0
    """Of the first answer's draws; each answer takes the next."""
    task: str | None = None
    """Task, where AGENT is a run with several. Default: the first."""
    space: SpaceName | None = None
    """Action space, where AGENT has several. Default: the first one with codes."""

    def __post_init__(self):
        if self.length is not None and self.length < 1:
            raise ValueError(f"--length: found {self.length}, expected at least 1.")
        if self.seed < 0:
            raise ValueError(f"--seed: found {self.seed}, expected a number that is not negative.")
        for picture in self.image:
            if not picture.is_file():
                raise ValueError(f"--image: {picture} is no file, expected a picture.")

    def run(self) -> int:
        """Talks; 1 if a line could not be done and nobody sat there to see it."""
        import sys

        from rich.console import Console

        from lam_jax.agents import chat_terminal as terminal
        from lam_jax.agents.chat import Chat as Conversation
        from lam_jax.agents.run_folder import newest_run

        path = self.agent or newest_run()
        for picture in self.image:
            terminal.require_picture(picture)
        agent = terminal.open_agent(path, self.task, self.space)
        agents = {agent.space: agent}
        if self.beside is not None:
            agents[self.beside] = terminal.open_beside(path, self.beside, self.task)
        changes = {"temperature": self.temperature, "top_k": self.top_k, "top_p": self.top_p}
        chats = {
            name: Conversation(
                agent,
                system=self.system,
                sampling=terminal.sampling_of(agent, **changes),
                length=self.length,
                seed=self.seed,
            )
            for name, agent in agents.items()
        }
        console = Console()
        for name, agent in agents.items():
            says = f"{name}: {agent.path}, task {agent.task}, phase {agent.phase}"
            console.print(says, style="dim", highlight=False, markup=False, soft_wrap=True)
        console.print("/help lists commands.", style="dim", highlight=False)
        whole = terminal.Terminal(chats, console, self.image).run(terminal.lines_of(console))
        return 0 if whole or sys.stdin.isatty() else 1
