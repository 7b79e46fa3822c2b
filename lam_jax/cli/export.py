"""`lam-jax export`."""

import dataclasses
from pathlib import Path
from typing import Annotated, Literal

import tyro
from rich.console import Console

from lam_jax.cli.spaces import SpaceName


@dataclasses.dataclass(frozen=True)
class Export:
    """Writes the agent of a run to a folder that can be taken elsewhere, with a model card.

    In the token space it is a Hugging Face folder, which transformers reads too. `lam_jax.load` and `lam-jax generate`
    take either. The agent of an unfinished run is that of its last complete phase.
    """

    run_folder: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(name="run")]
    """Folder of the run."""
    folder: Annotated[Path, tyro.conf.Positional]
    """Folder to write; it must not exist."""
    task: str | None = None
    """Task, where the run has several."""
    space: SpaceName | None = None
    """Action space, where the run has several."""
    weights: Literal["last", "best"] | None = None
    """Weights of the last step, or the best on validation: a run keeps one of the two. Default: those."""
    dtype: Literal["float32", "bfloat16"] | None = None
    """Type of the weights. Default: the type that the model computes in, which gives the same answers."""
    mesh: tuple[int, int, int] = (1, 1, 1)
    """Sizes of the axes data, fsdp and tensor of the devices that the weights are read onto."""
    push: str | None = None
    """Model on the Hugging Face hub, owner/name, to upload the folder to; a new one is private."""
    public: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Make a new model on the hub public."""

    def __post_init__(self):
        if self.public and self.push is None:
            raise ValueError("--public: expected --push beside it.")

    def run(self) -> None:
        """Exports."""
        from lam_jax.agents.export import export
        from lam_jax.agents.push import push
        from lam_jax.hosts.start import start_process
        from lam_jax.parallel.multihost import is_first

        start_process()
        settings = export(
            self.run_folder,
            self.folder,
            task=self.task,
            space=self.space,
            weights=self.weights,
            dtype=self.dtype,
            mesh=self.mesh,
        )
        if not is_first():
            return
        console = Console()
        agent = f"task {settings.task}, {settings.space} space, after {settings.phase}"
        console.print(f"{self.folder}: {agent}", soft_wrap=True, highlight=False, markup=False)
        if self.push:
            console.print(push(self.folder, self.push, self.public), soft_wrap=True, highlight=False, markup=False)
