"""`lam-jax watch`."""

import dataclasses
from pathlib import Path

import tyro


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

    def __post_init__(self):
        if not self.command:
            raise ValueError("watch: found no command, expected one after --, for example: -- lam-jax demo.")
        for name in ("patience", "silence", "grace"):
            if getattr(self, name) <= 0:
                raise ValueError(f"--{name}: found {getattr(self, name)}, expected seconds above 0.")

    def run(self) -> int:
        """Watches; returns the exit code."""
        from lam_jax.hosts.watchdog import Limits, watch

        return watch(self.command, self.folder, Limits(self.patience, self.silence, self.grace))
