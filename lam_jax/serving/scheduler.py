"""Continuous batching: requests wait, their samples join the slots between segments, and each is told what it says.

One thread reads prompts and decodes; others hand in jobs and are called back.
"""

import collections
import dataclasses
import logging
import threading
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from lam_jax.agents.loaded import LoadedAgent
from lam_jax.models.inputs import Batch
from lam_jax.rollout.slots import Opening, SlotDecoder
from lam_jax.serving.counters import Counters
from lam_jax.serving.requests import Asked
from lam_jax.serving.settings import Refusal
from lam_jax.serving.speech import Speech

logger = logging.getLogger("lam_jax")


@dataclasses.dataclass(frozen=True)
class Said:
    """A piece of an answer.

    Attributes:
        index: number of the sample.
        text: that was not told before.
        tokens, actions, logps: of the piece.
        reason: why the answer has ended, "stop" or "length"; None: it goes on.
    """

    index: int
    text: str
    tokens: list[int]
    actions: list[int]
    logps: list[float]
    reason: str | None


@dataclasses.dataclass(eq=False)
class Job:
    """A request on its way through the scheduler.

    Attributes:
        asked: the request.
        batch: its prompt, on the host.
        tell: called from the scheduler's thread with each piece, or with what went wrong, after which nothing comes.
        gone: whoever asked has left; what is under way ends with the segment.
    """

    asked: Asked
    batch: Batch
    tell: Callable[[Said | Refusal], None]
    gone: bool = False
    arrived: float = dataclasses.field(default_factory=time.monotonic)
    begun: int = 0  # samples that have joined
    answered: bool = False
    opening: tuple[Opening, int] | None = None  # and the row of its prompt there


@dataclasses.dataclass(eq=False)
class _Sample:
    job: Job
    index: int
    speech: Speech
    untold: tuple[list[int], list[int], list[float]] = dataclasses.field(default_factory=lambda: ([], [], []))


class Scheduler:
    """Runs jobs.

    Args:
        agent: who answers.
        decoder: its slots.
        counters: what is counted.
    """

    def __init__(self, agent: LoadedAgent, decoder: SlotDecoder, counters: Counters):
        self._agent, self._decoder, self._counters = agent, decoder, counters
        self._ends = agent.agent.backbone.config.eos_ids
        self._waiting: collections.deque[Job] = collections.deque()
        self._busy: dict[int, _Sample] = {}
        self._changed = threading.Condition()
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="decode", daemon=True)
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether jobs are taken."""
        return self._thread.is_alive() and not self._closing

    @property
    def waiting(self) -> int:
        """Requests with samples that no slot was free for."""
        return len(self._waiting)

    @property
    def busy(self) -> int:
        """Samples under way."""
        return len(self._busy)

    def submit(self, job: Job) -> None:
        """Hands in a job.

        Raises:
            Refusal: the scheduler was closed.
        """
        with self._changed:
            if not self.alive:
                raise Refusal(503, "The server is shutting down.", code="shutting_down")
            self._waiting.append(job)
            self._changed.notify()

    def close(self, wait: bool = True) -> None:
        """Takes no more jobs; finishes those that it has, or without `wait` drops them."""
        with self._changed:
            self._closing = True
            if not wait:
                for job in [*self._waiting, *(sample.job for sample in self._busy.values())]:
                    job.gone = True
            self._changed.notify()
        self._thread.join()

    def _run(self) -> None:
        while True:
            with self._changed:
                while not (self._waiting or self._busy or self._closing):
                    self._changed.wait()
                if self._closing and not self._waiting and not self._busy:
                    return
            try:
                self._join()
                self._segment()
            except Exception as error:  # of XLA, say out of memory: those under way are lost, later ones are not
                logger.exception("A segment of decode steps failed.")
                self._fail(error)

    def _fail(self, error: Exception) -> None:
        jobs = {id(sample.job): sample.job for sample in self._busy.values()}
        jobs |= {id(job): job for job in self._waiting if job.begun}
        self._busy.clear()
        for job in jobs.values():
            self._drop(job, Refusal(500, f"Decoding failed: {type(error).__name__}.", code="decoding_failed"))
        self._decoder.clear()

    def _drop(self, job: Job, why: Refusal | None) -> None:
        """Ends all that there is of a job."""
        for slot in [slot for slot, sample in self._busy.items() if sample.job is job]:
            del self._busy[slot]
        with self._changed:
            if job in self._waiting:
                self._waiting.remove(job)
        if why is not None and not job.gone:
            job.gone = True
            job.tell(why)

    def _join(self) -> None:
        """Those that are gone leave; those that wait join."""
        for slot in [slot for slot, sample in self._busy.items() if sample.job.gone]:
            del self._busy[slot]
        free = [slot for slot in range(self._decoder.sizes.slots) if slot not in self._busy]
        while self._waiting and free:
            job = self._waiting[0]
            if not job.gone and job.opening is None:
                self._read(job, len(free))
            if job.opening is not None and not job.gone:
                self._begin(job, job.opening, free)
            if job.gone or job.begun == job.asked.samples:
                with self._changed:
                    self._waiting.remove(job)
                job.opening = None

    def _read(self, job: Job, free: int) -> None:
        """Reads a job's prompt, once for all its samples; with others that are about to join and are alike.

        One that cannot be read ends its job, which the others do not feel.
        """
        with self._changed:
            next_ones = [other for other in list(self._waiting)[:free] if other.opening is None and not other.gone]
        alike = [other for other in next_ones if _shapes(other.batch) == _shapes(job.batch)]
        count = max(n for n in self._decoder.together(job.batch.tokens.shape[1]) if n <= max(1, len(alike)))
        if count > 1 and self._open(alike[:count]) is None:
            return
        if (error := self._open([job])) is not None:  # a prompt that does not fit into memory, say
            job.gone = True
            job.tell(Refusal(500, f"Reading the prompt failed: {type(error).__name__}.", code="reading_failed"))

    def _open(self, jobs: list[Job]) -> Exception | None:
        batch = jax.tree.map(lambda *rows: np.concatenate(rows), *(job.batch for job in jobs))
        try:
            opening = jax.block_until_ready(self._decoder.read(batch))
        except Exception as error:
            logger.exception("%s could not be read.", "A prompt" if len(jobs) == 1 else f"{len(jobs)} prompts together")
            return error
        for row, job in enumerate(jobs):
            job.opening = opening, row
        self._counters.add("prompt_tokens_total", int(batch.mask.sum()))
        return None

    def _begin(self, job: Job, read: tuple[Opening, int], free: list[int]) -> None:
        asked, key, (opening, row) = job.asked, jax.random.key(job.asked.seed), read
        while free and job.begun < asked.samples:
            slot = free.pop(0)
            self._decoder.join(
                slot,
                opening,
                key,
                job.begun,
                limit=asked.most,
                temperature=asked.temperature,
                top_p=asked.top_p,
                bias=asked.bias,
                row=row,
            )
            self._busy[slot] = _Sample(job, job.begun, Speech(self._decode, self._ends, asked.stops, asked.stream))
            job.begun += 1

    def _decode(self, tokens: list[int]) -> str:
        return self._agent.tokenizer.decode(tokens, skip_special_tokens=True)

    def _segment(self) -> None:
        busy = list(self._busy.items())
        if not busy:
            return
        keep = np.zeros(self._decoder.sizes.slots, bool)
        keep[[slot for slot, _ in busy]] = True
        began = time.monotonic()
        piece = self._decoder.segment(keep, any(sample.job.asked.top_p < 1 for _, sample in busy))
        self._counters.add("segments_total")
        self._counters.add("segment_seconds_sum", time.monotonic() - began)
        for slot, sample in busy:
            mask = piece.mask[slot]
            if sample.job.gone or slot not in self._busy:
                continue
            if piece.spoilt[slot].any():
                message = "The logits of an answer are NaN, so what was answered means nothing: check the weights."
                self._drop(sample.job, Refusal(500, message, code="not_finite"))
                continue
            found: tuple[Any, ...] = (piece.tokens[slot][mask], piece.actions[slot][mask], piece.logps[slot][mask])
            self._hear(slot, sample, *found)

    def _hear(self, slot: int, sample: _Sample, tokens: np.ndarray, actions: np.ndarray, logps: np.ndarray) -> None:
        job, speech = sample.job, sample.speech
        count = speech.add(tokens.tolist())
        self._counters.add("completion_tokens_total", count)
        if not job.answered:
            job.answered = True
            self._counters.add("first_token_seconds_sum", time.monotonic() - job.arrived)
            self._counters.add("first_token_seconds_count")
        # Of log-probabilities the digits of a float32, as `generate` gives them.
        new = (tokens[:count].tolist(), actions[:count].tolist(), [float(str(x)) for x in logps[:count]])
        for kept, more in zip(sample.untold, new):
            kept += more
        over = speech.ended or len(speech.tokens) >= job.asked.most
        if over:
            del self._busy[slot]
            speech.close()
        if over or job.asked.stream:
            reason = ("stop" if speech.ended else "length") if over else None
            job.tell(Said(sample.index, speech.news(last=over), *sample.untold, reason))
            sample.untold = ([], [], [])


def _shapes(batch: Batch) -> Any:
    return jax.tree.map(np.shape, batch)
