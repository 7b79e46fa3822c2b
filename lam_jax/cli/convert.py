"""`lam-jax convert`."""

import dataclasses
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console

from lam_jax.cli.presets import Preset


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
        from lam_jax.formats.convert import convert, read_any_config
        from lam_jax.models.families import PRESETS

        config = PRESETS[self.preset] if self.preset else read_any_config(self.config) if self.config else None
        report = convert(self.source, self.target, config)
        console = Console()
        console.print(f"{report.kind}: {report.tensors} tensors to {self.target}", soft_wrap=True, highlight=False)
        for name in report.skipped:
            console.print(f"skipped: {name}", soft_wrap=True, highlight=False)
