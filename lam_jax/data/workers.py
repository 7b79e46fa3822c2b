"""Pictures decoded: in this process, or in worker processes that hold nothing else.

A worker imports Pillow and NumPy and no jax, gets a path or bytes and gives patches back; nothing decoded is kept.
"""

import atexit
import functools
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError, Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any

import numpy as np

from lam_jax.data.bad_rows import BROKEN, MISSING, BadRowError, Picture
from lam_jax.data.schemas import DataError, image_bytes
from lam_jax.errors import BadSettingError
from lam_jax.models.processor import Grid, ImageError, ImageSettings, process_image

Decoded = tuple[np.ndarray, Grid]  # patches [n, patch], and the grid that they lie on


def decode_picture(picture: Picture, settings: ImageSettings) -> Decoded:
    """Patches and grid of a picture.

    Raises:
        BadRowError: its file is missing, or it cannot be decoded, whatever the decoder raises.
    """
    try:
        return process_image(image_bytes(picture.source, picture.where), settings, str(picture))
    except DataError as error:
        raise BadRowError(picture.where, MISSING, str(error), picture.path) from error
    except ImageError as error:
        raise BadRowError(picture.where, BROKEN, f"{error}.", picture.path) from error
    except Exception as error:  # decoders of broken files raise struct.error, KeyError, MemoryError, ..
        text = f"{picture}: found a picture that cannot be decoded ({type(error).__name__}: {error}); replace the file."
        raise BadRowError(picture.where, BROKEN, text, picture.path) from error


def picture_grid(picture: Picture, settings: ImageSettings) -> Grid:
    """The grid alone of a picture that was decoded to its end; raises what `decode_picture` does."""
    return decode_picture(picture, settings)[1]


class PicturePool:
    """Worker processes that decode pictures.

    Args:
        workers: how many; they start with the first picture.
    """

    def __init__(self, workers: int):
        if workers < 1:
            raise ValueError(f"PicturePool.workers is {workers}, expected at least 1.")
        self.workers = workers
        self._pool: ProcessPoolExecutor | None = None
        self._lock = threading.Lock()
        self._single: ProcessPoolExecutor | None = None
        self._one_by_one = threading.Lock()
        atexit.register(self.close)

    def map(
        self, function: Callable[[Picture, ImageSettings], Any], pictures: Sequence[Picture], settings: ImageSettings
    ) -> Callable[[], list[Any]]:
        """Starts `function` on every picture; returns what waits for the results.

        A worker that dies (out of memory, a fault of a decoder) is replaced, and the picture that it may have died of
        is tried once more by itself.

        Raises:
            BadRowError: when waited for: a picture is bad, or a worker of its own died of it.
            BadSettingError: workers cannot start.
        """
        calls = [(function, picture, settings) for picture in pictures]
        submitted = [self._submit(call) for call in calls]
        return lambda: [self._result(*one, call) for one, call in zip(submitted, calls)]

    def close(self) -> None:
        """Ends the workers; a further picture starts them again."""
        with self._lock:
            if self._pool is not None:
                self._pool.shutdown(wait=False, cancel_futures=True)
                self._pool = None
        with self._one_by_one:
            if self._single is not None:
                self._single.shutdown(wait=False)
                self._single = None

    def _submit(self, call: Sequence[Any]) -> tuple[Future, ProcessPoolExecutor]:
        with self._lock:
            if self._pool is None:
                self._pool = _start(self.workers)
            pool = self._pool
        try:
            return pool.submit(*call), pool
        except (BrokenProcessPool, RuntimeError):  # broken, or ended for that a moment ago
            broken: Future = Future()
            broken.set_exception(BrokenProcessPool())
            return broken, pool

    def _result(self, future: Future, pool: ProcessPoolExecutor, call: Sequence[Any]) -> Any:
        try:
            return future.result()
        except (BrokenProcessPool, CancelledError) as error:
            with self._lock:
                if self._pool is pool:
                    pool.shutdown(wait=False, cancel_futures=True)
                    self._pool = None
            return self._alone(call, error)

    def _alone(self, call: Sequence[Any], cause: BaseException) -> Any:
        """The call in a worker that has no other one: if that dies, it dies of this picture."""
        with self._one_by_one:
            self._single = self._single or _start(1)
            try:
                return self._single.submit(*call).result()
            except BrokenProcessPool:
                self._single = None
                picture = call[1]
                text = f"{picture}: found a picture that a worker process died of; replace the file."
                raise BadRowError(picture.where, BROKEN, text, picture.path) from cause


def _start(workers: int) -> ProcessPoolExecutor:
    # Spawned: a forked copy of a process with jax in it may hang.
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), initializer=_begin_worker)
    try:
        pool.submit(os.getpid).result()
    except BrokenProcessPool as error:
        raise BadSettingError(
            "workers: the processes that decode pictures cannot start; their message is above. Begin your program with "
            '`if __name__ == "__main__":`, as multiprocessing asks, or set workers to 0.'
        ) from error
    return pool


def _begin_worker() -> None:
    """A worker ends with its parent, however that ends; a signal to stop is the parent's to answer."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    parent = multiprocessing.parent_process()

    def follow() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=follow, daemon=True).start()


@functools.cache
def picture_pool(workers: int) -> PicturePool:
    """The pool of so many workers, one for the whole process."""
    return PicturePool(workers)
