"""`lam-jax serve`."""

import dataclasses
from pathlib import Path
from typing import Annotated

import tyro

from lam_jax.cli.spaces import SpaceName


@dataclasses.dataclass(frozen=True)
class Serve:
    """Serves an agent over HTTP with the OpenAI API of chat completions, pictures included.

    Pages: /v1/chat/completions, /v1/models, /health, /metrics. Requests to /v1 need the API key in the environment
    variable LAM_JAX_API_KEY where it is set. Ctrl-C finishes what runs, a second one does not wait. Needs
    `pip install 'lam_jax[serve]'`.
    """

    agent: Annotated[Path, tyro.conf.Positional]
    """A run, an exported agent, a Hugging Face Qwen2.5-VL or Qwen3-VL, or a folder of `lam-jax convert`."""
    host: str = "127.0.0.1"
    """Address to listen on; 0.0.0.0 for all of the machine."""
    port: int = 8000
    """Port to listen on; 0 for any free one."""
    name: str | None = None
    """Of the model, as clients name it. Default: that of the agent's folder."""
    slots: int = 16
    """Answers that are decoded at a time; needs memory for each."""
    segment: int = 4
    """Tokens between two looks at who joins and who has ended; streams come in such pieces."""
    length: int | None = None
    """Most tokens of an answer. Default: the agent's own."""
    queue: int = 64
    """Requests that may wait; more get status 429."""
    samples: int = 16
    """Most answers to a request (n)."""
    image_root: Path | None = None
    """Folder whose pictures requests may name by path or file address. Default: none; they come as data: addresses."""
    pictures: int = 4
    """Most pictures of a request."""
    megapixels: float = 16.0
    """Most millions of pixels of a picture."""
    body: float = 32.0
    """Most MiB of a request."""
    timeout: float = 120.0
    """Seconds that a request may take."""
    grace: float | None = None
    """Seconds that a shutdown waits for what runs. Default: as long as it takes."""
    task: str | None = None
    """Task, where AGENT is a run with several."""
    space: SpaceName | None = None
    """Action space, where AGENT has several."""

    def run(self) -> None:
        """Serves."""
        from rich.console import Console

        from lam_jax.agents.load import load
        from lam_jax.serving.server import Server, require_packages
        from lam_jax.serving.settings import ServeSettings

        require_packages()
        shared = [field.name for field in dataclasses.fields(ServeSettings) if hasattr(self, field.name)]
        values = {name: getattr(self, name) for name in shared}
        values |= {"pixels": round(self.megapixels * 1e6), "body": round(self.body * 2**20)}
        settings = ServeSettings(**values)
        server = Server(load(self.agent, task=self.task, space=self.space), settings)
        Console().print(f"{server.name} at {server.url}", highlight=False, markup=False, soft_wrap=True)
        server.run()
