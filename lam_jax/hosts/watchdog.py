"""A parent process that watches one training process and, through files that all see, those on the other hosts.

A training process cannot report that it hangs, and the death of a peer aborts it from C++ without a word. So each one
runs as the child of a watchdog. The child writes where it is (`lam_jax.hosts.heartbeat`), the watchdog publishes that
together with how the child ended, and reads what the others publish. It ends its child and says why when

- the child has not come to another step for `patience` seconds (exit code 12), or
- another process has ended with an error, or nothing is heard of its watchdog any more (exit code 13).

SIGTERM is passed on to the child, whose own exit code is then returned. So is SIGINT, as SIGTERM: on Ctrl-C the
terminal signals the child too, and to a run a second SIGINT means to end without saving.
"""

import dataclasses
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from lam_jax.errors import InterruptedRunError, LamJaxError, NoUsableRewardError, PreemptedError
from lam_jax.hosts import heartbeat

HUNG, PEER_ENDED = 12, 13
PUBLISH_SECONDS = 1.0
NEWS_SECONDS = 5.0
# How a training process ends whose peer has died: an error of the network, jax's abort, or, once in 25 trials of
# `make soak`, a segmentation fault in the network code that the error took down.
CONSEQUENCES = (1, -signal.SIGABRT, -signal.SIGSEGV)


@dataclasses.dataclass(frozen=True)
class Limits:
    """How long the watchdog waits, in seconds.

    Attributes:
        patience: for the next step or phase; compiling a large program counts, so minutes.
        silence: for a sign of life of another watchdog.
        grace: for the child to end by itself after another process ended, or after it was told to.
    """

    patience: float = 1800.0
    silence: float = 120.0
    grace: float = 30.0

    def __post_init__(self):
        for field in dataclasses.fields(self):
            if getattr(self, field.name) <= 0:
                raise ValueError(f"{field.name}: found {getattr(self, field.name)}, expected seconds above 0.")


class Peers:
    """The other watchdogs' files, as far as they changed since this one looked first."""

    def __init__(self, folder: Path, own: str):
        self.folder, self.own = folder, own
        # What lies there from an earlier run is no news.
        self._known: dict[str, tuple[dict[str, Any], float | None]] = {n: (c, None) for n, c in self._read().items()}

    def _read(self) -> dict[str, dict[str, Any]]:
        files = [file for file in self.folder.glob("*.watchdog.json") if file.name != f"{self.own}.watchdog.json"]
        read = ((file.name.removesuffix(".watchdog.json"), heartbeat.read(file)) for file in files)
        return {name: content for name, content in read if content is not None}

    def look(self) -> dict[str, tuple[dict[str, Any], float]]:
        """Content and seconds since it changed, of every peer of this run, by name."""
        now = time.monotonic()
        for name, content in self._read().items():
            if name not in self._known or self._known[name][0] != content:
                self._known[name] = content, now
        return {name: (content, now - when) for name, (content, when) in self._known.items() if when is not None}


class Watchdog:
    """Runs `command` as a child and watches it.

    Args:
        command: of the training process.
        folder: for the heartbeats; all hosts must see it.
        name: of this process, the same in every run, different from the others'.
        limits: how long to wait.
    """

    def __init__(self, command: Sequence[str], folder: Path, name: str, limits: Limits):
        self.command, self.folder, self.name, self.limits = list(command), Path(folder), name, limits
        self.folder.mkdir(parents=True, exist_ok=True)
        self.beats, self.published = (self.folder / f"{name}.{kind}.json" for kind in ("child", "watchdog"))
        for file in (self.beats, self.published):
            file.unlink(missing_ok=True)
        self.peers = Peers(self.folder, name)
        self.console = Console(stderr=True)

    def run(self) -> int:
        """Runs the child to its end, or ends it; returns the exit code."""
        environment = {**os.environ, heartbeat.FILE: str(self.beats), "PYTHONFAULTHANDLER": "1"}
        child = subprocess.Popen(self.command, env=environment)

        def forward(*_: Any) -> None:
            child.send_signal(signal.SIGTERM)

        previous = {number: signal.signal(number, forward) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            code = self._watch(child)
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)
            if child.poll() is None:
                child.kill()
                child.wait()
        self._publish("ended", code)
        return code

    def _watch(self, child: subprocess.Popen) -> int:
        place, moved = ("", -1), time.monotonic()
        while True:
            try:
                return self._ended(child.wait(timeout=PUBLISH_SECONDS))
            except subprocess.TimeoutExpired:
                pass
            beat = heartbeat.read(self.beats) or {}
            if (beat.get("phase", ""), beat.get("step", -1)) != place:
                place, moved = (beat.get("phase", ""), beat.get("step", -1)), time.monotonic()
            self._publish("running")
            trouble = self._trouble()
            if trouble:
                return self._after(child, trouble)
            if time.monotonic() - moved > self.limits.patience:
                self._say(f"{self._where(beat)}: no progress for {self.limits.patience:.0f} s. {self._behind(beat)}")
                self._end(child, signal.SIGABRT)  # with the fault handler on, this prints the stack of every thread
                return HUNG

    def _ended(self, code: int) -> int:
        if code == 0:
            return 0
        where = self._where(heartbeat.read(self.beats) or {})
        if code in CONSEQUENCES and (trouble := self._awaited_trouble()):
            self._say(f"{where}: {_how(code)}, because {trouble}.")
            return PEER_ENDED
        self._say(f"{where}: {_how(code)}.")
        return 128 - code if code < 0 else code

    def _awaited_trouble(self) -> str | None:
        """What is wrong with another process; the news of its end may be a moment behind that of ours."""
        until = time.monotonic() + NEWS_SECONDS
        while not (trouble := self._trouble()) and self.peers.look() and time.monotonic() < until:
            time.sleep(0.1)
        return trouble

    def _after(self, child: subprocess.Popen, trouble: str) -> int:
        """Another process ended: the child may end by itself (it may be saving), then it is ended."""
        where = self._where(heartbeat.read(self.beats) or {})
        try:
            code = child.wait(timeout=self.limits.grace)
        except subprocess.TimeoutExpired:
            self._say(f"{where}: ended by its watchdog, because {trouble}.")
            self._end(child, signal.SIGTERM)
            return PEER_ENDED
        known = {error.exit_code for error in (*LamJaxError.__subclasses__(), InterruptedRunError, NoUsableRewardError)}
        if code == 0 or code in known:
            return self._ended(code)
        self._say(f"{where}: {_how(code)}, because {trouble}.")
        return PEER_ENDED

    def _trouble(self) -> str | None:
        """What is wrong with another process, if anything is."""
        for name, (content, age) in sorted(self.peers.look().items()):
            where = f"{name} on {content['host']} (phase {content['phase'] or 'start'}, step {content['step']})"
            if content["state"] == "ended" and content["code"] not in (0, PEER_ENDED):
                return f"{where} {_how(content['code'])}"
            if content["state"] == "running" and age > self.limits.silence:
                return f"nothing was heard of {where} for {self.limits.silence:.0f} s"
        return None

    def _behind(self, own: dict[str, Any]) -> str:
        """Which process keeps the others waiting."""
        steps = {name: (content["phase"], content["step"]) for name, (content, _) in self.peers.look().items()}
        if not steps:
            return ""
        steps[self.name] = own.get("phase", ""), own.get("step", 0)
        last = min(step for _, step in steps.values())
        behind = [name for name, (_, step) in steps.items() if step == last]
        where = ", ".join(f"{name}: phase {phase or 'start'}, step {step}" for name, (phase, step) in steps.items())
        if len(behind) == len(steps):
            return f"All processes are at the same step ({where})."
        return f"The others wait for {' and '.join(behind)} ({where})."

    def _publish(self, state: str, code: int = 0) -> None:
        beat = heartbeat.read(self.beats) or {}
        content = {"state": state, "code": code, "host": socket.gethostname(), "time": time.time()}
        heartbeat.write(self.published, content | {"phase": beat.get("phase", ""), "step": beat.get("step", 0)})

    def _end(self, child: subprocess.Popen, number: int) -> None:
        child.send_signal(number)
        try:
            child.wait(timeout=min(self.limits.grace, 10))
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()

    def _where(self, beat: dict[str, Any]) -> str:
        return f"{self.name}, phase {beat.get('phase') or 'start'}, step {beat.get('step', 0)}"

    def _say(self, message: str) -> None:
        self.console.print(f"watchdog: {message}", style="red", soft_wrap=True, highlight=False, markup=False)


def _how(code: int) -> str:
    if code == PreemptedError.exit_code:
        return "was preempted and saved"
    if code == InterruptedRunError.exit_code:
        return "was interrupted from the keyboard"
    number = -code if code < 0 else code - 128 if code > 128 else None
    if number is not None and number in signal.valid_signals():
        return f"was killed by {signal.Signals(number).name}"
    return f"ended with exit code {code}"


def default_name(environment: dict[str, str] | None = None) -> str:
    """A name for this process: its number where the environment says it, else the host's name."""
    from lam_jax.parallel.processes import find_place

    environment = dict(os.environ) if environment is None else environment
    place = find_place(environment)
    index = place.index if place else 0
    if index is None:
        index = environment.get("TPU_WORKER_ID")
    return f"process_{socket.gethostname()}" if index is None else f"process_{int(index)}"


def watch(command: Sequence[str], folder: Path, limits: Limits) -> int:
    """Runs `command` under a watchdog; returns the exit code."""
    if not command:
        raise ValueError("watch: found no command, expected one after --, for example: -- lam-jax demo.")
    sys.stdout.flush()
    return Watchdog(command, folder, default_name(), limits).run()
