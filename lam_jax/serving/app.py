"""The server as an ASGI application: routes, limits, errors, streams."""

import asyncio
import contextlib
import hmac
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from lam_jax.agents.loaded import LoadedAgent
from lam_jax.data.schemas import DataError
from lam_jax.models.decoding import ImageError
from lam_jax.models.inputs import Batch
from lam_jax.serving.counters import Counters, resident_bytes
from lam_jax.serving.messages import prompt_reader, refused
from lam_jax.serving.replies import Reply, encoded
from lam_jax.serving.requests import Asked, RequestReader
from lam_jax.serving.scheduler import Job, Said, Scheduler
from lam_jax.serving.settings import API_KEY, Refusal, ServeSettings

logger = logging.getLogger("lam_jax")
_GONE = 499  # in metrics: the client left


def json_response(value: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """A value as JSON."""
    return Response(encoded(value), status, headers, "application/json")


def _refuse(error: Refusal) -> Response:
    headers = {"retry-after": "1"} if error.status in (429, 503) else None
    return json_response(error.body(), error.status, headers)


class Service:
    """One agent behind HTTP.

    Args:
        agent: who answers.
        settings: what is allowed.
        name: of the agent, as clients name it.
        scheduler: runs what is asked.
        counters: what is counted.
        api_key: that requests to /v1 need; None: none.
    """

    def __init__(
        self,
        agent: LoadedAgent,
        settings: ServeSettings,
        name: str,
        scheduler: Scheduler,
        counters: Counters,
        api_key: str | None,
    ):
        self._agent, self._settings, self._name = agent, settings, name
        self._scheduler, self._counters, self._api_key = scheduler, counters, api_key
        self._read = RequestReader(agent, settings, name)
        self._prompts = prompt_reader(agent)
        self._coded = agent.settings.action_space.coded
        self._pool = ThreadPoolExecutor(2, "requests")  # tokens and pixels; not the loop's business
        self._open = 0
        self._created = int(time.time())
        self.app = Starlette(
            routes=[
                Route("/v1/chat/completions", _Completions(self), methods=["POST"]),
                Route("/v1/models", self._models, methods=["GET"]),
                Route("/v1/models/{name:path}", self._model, methods=["GET"]),
                Route("/health", self._health, methods=["GET"]),
                Route("/metrics", self._metrics, methods=["GET"]),
            ],
            exception_handlers={HTTPException: self._http_error, Refusal: self._refusal, Exception: self._error},
            lifespan=self._lifespan,
        )

    @contextlib.asynccontextmanager
    async def _lifespan(self, app: Starlette) -> AsyncIterator[None]:
        yield
        # Only now: until here uvicorn let requests finish.
        await asyncio.get_running_loop().run_in_executor(None, self._scheduler.close)
        self._pool.shutdown()

    async def _http_error(self, request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        path = request.url.path[:100]
        messages = {404: f"{path}: no such page.", 405: f"{path}: {request.method} is not for this page."}
        return _refuse(Refusal(error.status_code, messages.get(error.status_code, error.detail)))

    async def _refusal(self, request: Request, error: Exception) -> Response:
        assert isinstance(error, Refusal)
        return _refuse(error)

    async def _error(self, request: Request, error: Exception) -> Response:
        return _refuse(Refusal(500, "The server made an error; its log says which."))

    def authorise(self, request: Request) -> None:
        """Refuses a request without the key."""
        if self._api_key is None:
            return
        given = request.headers.get("authorization", "")
        if not hmac.compare_digest(given.encode(), f"Bearer {self._api_key}".encode()):
            message = f"Expected the API key of this server (its environment variable {API_KEY}) as a bearer token."
            raise Refusal(401, message, code="invalid_api_key")

    async def _models(self, request: Request) -> Response:
        self.authorise(request)
        return json_response({"object": "list", "data": [self._card()]})

    async def _model(self, request: Request) -> Response:
        self.authorise(request)
        if request.path_params["name"] != self._name:
            raise Refusal(404, f"This server has the model {self._name!r} alone.", "model", "model_not_found")
        return json_response(self._card())

    def _card(self) -> dict[str, Any]:
        settings = self._agent.settings
        return {
            "id": self._name,
            "object": "model",
            "created": self._created,
            "owned_by": "lam_jax",
            "space": settings.space,
            "codes": self._read.codes,
            "task": settings.task,
            "max_prompt_tokens": settings.prompt_lengths[-1],
            "max_completion_tokens": self._read.most,
        }

    async def _health(self, request: Request) -> Response:
        alive = self._scheduler.alive
        return json_response({"status": "ok" if alive else "stopping"}, 200 if alive else 503)

    async def _metrics(self, request: Request) -> Response:
        gauges = {
            "requests_open": self._open,
            "requests_waiting": self._scheduler.waiting,
            "slots_busy": self._scheduler.busy,
            "slots": self._settings.slots,
            "resident_bytes": resident_bytes(),
        }
        return PlainTextResponse(self._counters.text(gauges), media_type="text/plain; version=0.0.4")

    @contextlib.contextmanager
    def _place(self):
        """A place among the requests that are let in, before anything of them is kept in memory."""
        most = self._settings.slots + self._settings.queue
        if not self._scheduler.alive:
            raise Refusal(503, "The server is shutting down.", code="shutting_down")
        if self._open >= most:
            message = f"{self._open} requests are under way, and no more may wait; come back later."
            raise Refusal(429, message, code="queue_full")
        self._open += 1
        try:
            yield
        finally:
            self._open -= 1

    async def complete(self, scope: Scope, receive: Receive, send: Send) -> None:
        """POST /v1/chat/completions."""
        request = Request(scope, receive)
        began, status, started = time.monotonic(), 500, False

        async def sending(message: Any) -> None:
            nonlocal status, started
            if message["type"] == "http.response.start":
                status, started = message["status"], True
            await send(message)

        try:
            self.authorise(request)
            with self._place():
                async with asyncio.timeout(self._settings.timeout):
                    body = await self._body(request)
                    loop = asyncio.get_running_loop()
                    asked, batch = await loop.run_in_executor(self._pool, self._prepare, body)
                    del body
                    await self._answer(request, asked, batch, sending)
                self._counters.add("request_seconds_sum", time.monotonic() - began)
        except ClientDisconnect:
            status = _GONE
            self._counters.add("cancelled_total")
        except (Refusal, TimeoutError) as error:
            if isinstance(error, TimeoutError):
                seconds = f"{self._settings.timeout:g} seconds"
                error = Refusal(504, f"The request took longer than {seconds}, the most here.", code="timeout")
            if not started:
                await _refuse(error)(scope, receive, sending)
            else:  # the status was sent: the stream says it
                status = error.status
                await self._event(send, error.body(), last=True)
        finally:
            self._counters.add("requests_total", label=f'status="{status}"')

    async def _body(self, request: Request) -> bytes:
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != "application/json":
            raise Refusal(415, f"Content-Type: found {kind[:60]!r}, expected application/json.", code="not_json")
        most = self._settings.body
        parts: list[bytes] = []
        size = 0
        try:
            async with asyncio.timeout(self._settings.read_timeout):
                async for part in request.stream():
                    size += len(part)
                    if size <= most:
                        parts.append(part)
                    else:
                        parts.clear()
                    if size > 4 * most:  # so far it is read and forgotten: who still sends does not hear the answer
                        break
        except TimeoutError as error:
            seconds = f"{self._settings.read_timeout:g} seconds"
            raise Refusal(408, f"The body did not arrive within {seconds}.", code="read_timeout") from error
        if size > most:
            raise Refusal(413, f"The body has more than {most} bytes, the most here.", code="body_too_large")
        return b"".join(parts)

    def _prepare(self, body: bytes) -> tuple[Asked, Batch]:
        """The request and its prompt; in a thread."""
        asked = self._read(body)
        try:
            made = self._prompts([asked.example])
        except (DataError, ImageError) as error:
            raise refused(error, "messages") from error
        if made.cuts.rows:
            most = self._agent.settings.prompt_lengths[-1]
            message = f"messages: the prompt has {most + made.cuts.tokens} tokens, the agent reads at most {most}."
            raise Refusal(400, message, "messages", "context_length_exceeded")
        return asked, made.batch

    async def _answer(self, request: Request, asked: Asked, batch: Batch, send: Send) -> None:
        loop = asyncio.get_running_loop()
        told: asyncio.Queue[Said | Refusal] = asyncio.Queue()

        def tell(said: Said | Refusal) -> None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody listens
                loop.call_soon_threadsafe(told.put_nowait, said)

        job = Job(asked, batch, tell)
        reply = Reply(asked, self._name, self._agent.tokenizer, self._coded, int(batch.mask.sum()))
        gone = asyncio.ensure_future(_until_gone(request))
        try:
            self._scheduler.submit(job)
            await (self._stream if asked.stream else self._whole)(request, asked, reply, told, gone, send)
        finally:
            job.gone = True
            gone.cancel()

    async def _whole(
        self,
        request: Request,
        asked: Asked,
        reply: Reply,
        told: asyncio.Queue[Said | Refusal],
        gone: asyncio.Future[None],
        send: Send,
    ) -> None:
        for _ in range(asked.samples):
            reply.take(await _next(told, gone))
        await json_response(reply.completion())(request.scope, request.receive, send)

    async def _stream(
        self,
        request: Request,
        asked: Asked,
        reply: Reply,
        told: asyncio.Queue[Said | Refusal],
        gone: asyncio.Future[None],
        send: Send,
    ) -> None:
        said = await _next(told, gone)  # before the status is sent: a refusal has its own
        headers = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-store")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        for chunk in reply.opening():
            await self._event(send, chunk)
        left = asked.samples
        while True:
            await self._event(send, reply.chunk(said))
            left -= said.reason is not None
            if not left:
                break
            said = await _next(told, gone)
        for chunk in reply.closing():
            await self._event(send, chunk)
        await self._event(send, None, last=True)

    async def _event(self, send: Callable[[Any], Awaitable[None]], value: Any, last: bool = False) -> None:
        data = b"" if value is None else b"data: " + encoded(value) + b"\n\n"
        if last:
            data += b"data: [DONE]\n\n"
        await send({"type": "http.response.body", "body": data, "more_body": not last})


class _Completions:
    """An ASGI application for the route: it sends streams itself."""

    def __init__(self, service: Service):
        self._service = service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._service.complete(scope, receive, send)


async def _until_gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _next(told: asyncio.Queue[Said | Refusal], gone: asyncio.Future[None]) -> Said:
    """What is said next.

    Raises:
        ClientDisconnect: nobody listens any more.
        Refusal: it went wrong.
    """
    waiting = asyncio.ensure_future(told.get())
    try:
        await asyncio.wait((waiting, gone), return_when=asyncio.FIRST_COMPLETED)
        if gone.done():
            raise ClientDisconnect
        said = waiting.result()
    finally:
        waiting.cancel()
    if isinstance(said, Refusal):
        raise said
    return said
