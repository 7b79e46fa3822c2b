"""`lam-jax presets`."""

import dataclasses
from typing import Literal

from rich.console import Console

Preset = Literal["tiny", "small", "mid", "qwen2_5_vl_3b", "qwen2_5_vl_7b", "qwen3_vl_2b", "qwen3_vl_4b", "qwen3_vl_8b"]


@dataclasses.dataclass(frozen=True)
class Presets:
    """Lists the named model sizes with their numbers of parameters."""

    def run(self) -> None:
        """Prints the table."""
        from rich.table import Table

        from lam_jax.latent.agent import Agent
        from lam_jax.latent.config import LATENT_PRESETS
        from lam_jax.models.families import PRESETS
        from lam_jax.nn.weight import count

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
