"""A server of one agent: in this thread until it is told to stop, or in a thread of its own."""

import contextlib
import importlib.util
import logging
import os
import re
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from lam_jax.agents.loaded import LoadedAgent
from lam_jax.agents.prompts import picture_bytes, prompt_of
from lam_jax.agents.settings import AgentError
from lam_jax.data.schemas import DataError, Where
from lam_jax.errors import LamJaxError
from lam_jax.parallel import mesh_of
from lam_jax.rollout.slots import SlotDecoder, SlotSizes
from lam_jax.serving.counters import Counters
from lam_jax.serving.messages import prompt_reader
from lam_jax.serving.scheduler import Scheduler
from lam_jax.serving.settings import API_KEY, ServeSettings

logger = logging.getLogger("lam_jax")
NEEDED = ("starlette", "uvicorn")
PIP = "pip install 'lam_jax[serve]'"


class ServeError(LamJaxError):
    """A server that cannot start, or did not."""


def require_packages() -> None:
    """Refuses to go on without the packages of the extra `serve`.

    Raises:
        ServeError: says what is missing, and how to install it.
    """
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise ServeError(f"Serving needs {' and '.join(missing)}: {PIP}")


class Server:
    """An agent behind the OpenAI API of chat completions.

    As a context it serves from a thread, and finishes what runs when it is left:

        with lam_jax.Server(agent, lam_jax.ServeSettings(port=0)) as server:
            print(server.url)

    Args:
        agent: who answers, on one device.
        settings: what is allowed.

    Attributes:
        counters: what /metrics shows.

    Raises:
        ServeError: packages are missing, or the port is taken.
        AgentError: the agent lies on several devices, or draws tokens under a code.
    """

    def __init__(self, agent: LoadedAgent, settings: ServeSettings | None = None):
        require_packages()
        from lam_jax.serving.app import Service

        self.settings = settings = settings or ServeSettings()
        self.counters = Counters()
        api_key = os.environ.get(API_KEY) or None
        if api_key is None and settings.host not in ("127.0.0.1", "localhost", "::1"):
            logger.warning("Listening on %s without an API key: set %s to ask for one.", settings.host, API_KEY)
        self._socket = _listen(settings.host, settings.port)
        try:
            decoder = make_decoder(agent, settings)
            warm(agent, decoder)
            self.name = settings.name or name_of(agent.path)
            self.scheduler = Scheduler(agent, decoder, self.counters)
            self._service = Service(agent, settings, self.name, self.scheduler, self.counters, api_key)
        except BaseException:
            self._socket.close()
            raise
        self._server: Any = None
        self._thread: threading.Thread | None = None

    @property
    def url(self) -> str:
        """Base address for clients, with /v1."""
        host = f"[{self.settings.host}]" if ":" in self.settings.host else self.settings.host
        return f"http://{host}:{self._socket.getsockname()[1]}/v1"

    def run(self) -> None:
        """Serves until SIGINT or SIGTERM, then finishes what runs; a second one ends it at once."""
        self._serve()

    def stop(self) -> None:
        """Tells it to take no more requests and to finish those that it has; returns at once."""
        if self._server is not None:
            self._server.should_exit = True

    def _serve(self) -> None:
        self._server = _uvicorn(self._service.app, self.settings)
        try:
            self._server.run(sockets=[self._socket])
        finally:
            self.scheduler.close(wait=False)
            self._socket.close()

    def __enter__(self) -> "Server":
        self._thread = threading.Thread(target=self._serve, name="serve", daemon=True)
        self._thread.start()
        while self._server is None or not self._server.started:
            if not self._thread.is_alive():
                raise ServeError("The server did not start; its log says why.")
            time.sleep(0.01)
        return self

    def __exit__(self, *_: Any) -> None:
        self.stop()
        if self._thread is not None:
            self._thread.join()


def name_of(path: Path) -> str:
    """The name of a folder as that of a model."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", path.resolve().name) or "agent"


def make_decoder(agent: LoadedAgent, settings: ServeSettings) -> SlotDecoder:
    """The slots of an agent.

    Raises:
        AgentError: as of `Server`.
    """
    mesh = mesh_of(agent.agent)
    if mesh is not None and mesh.size > 1:
        raise AgentError(f"{agent.path} lies on {mesh.size} devices; serving needs it on one.")
    sampling = agent.settings.sampling
    if sampling.emission:
        raise AgentError(f"{agent.path} draws tokens under its codes (emission {sampling.emission}); serving cannot.")
    length = settings.length or agent.settings.answer_length
    sizes = SlotSizes(settings.slots, agent.settings.prompt_lengths[-1], length, settings.segment)
    return SlotDecoder(agent.actions, sizes, sampling)


def warm(agent: LoadedAgent, decoder: SlotDecoder) -> None:
    """Compiles what first requests would wait for: short prompts, with a picture and without, and the steps."""
    import jax

    white = picture_bytes(Image.new("RGB", (112, 84), "white"), Where("warm-up"), 0)
    prompts = prompt_reader(agent)
    for images in ([], [white]):
        try:
            prompt = prompts([prompt_of("Hello", images, "warm-up")]).batch
        except DataError:  # a picture does not fit the agent's longest prompt
            continue
        for count in decoder.together(prompt.tokens.shape[1]):
            opening = decoder.read(jax.tree.map(lambda row, n=count: np.concatenate([row] * n), prompt))
            for _ in range(2):  # what comes out of the first goes into the second
                decoder.join(0, opening, jax.random.key(0), 0, limit=1, temperature=1.0)
                decoder.segment(np.arange(decoder.sizes.slots) == 0, False)
    decoder.clear()


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=2048)
    except OSError as error:
        raise ServeError(f"{host}:{port} cannot be listened on ({error.strerror or error}). Take another.") from error


def _uvicorn(app: Any, settings: ServeSettings) -> Any:
    import uvicorn

    class Quiet(uvicorn.Server):
        """Ends well after a signal, where uvicorn raises it once more."""

        @contextlib.contextmanager
        def capture_signals(self) -> Iterator[None]:
            if threading.current_thread() is not threading.main_thread():
                yield
                return
            handled = (signal.SIGINT, signal.SIGTERM)
            before: dict[int, Callable[..., Any] | int | None] = {
                s: signal.signal(s, self.handle_exit) for s in handled
            }
            try:
                yield
            finally:
                for number, handler in before.items():
                    signal.signal(number, handler)

    grace = None if settings.grace is None else max(1, round(settings.grace))
    config = uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,
        lifespan="on",
        timeout_graceful_shutdown=grace,
        timeout_keep_alive=30,
        server_header=False,
    )
    return Quiet(config)
