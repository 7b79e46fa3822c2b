"""One call of a chat-completions endpoint: what came back, or a failure of a kind. Nothing here raises for a bad reply.

The standard library's client: a call has one deadline for all of it, and redirects are not followed, since the key
would go along.
"""

import contextlib
import dataclasses
import email.utils
import http.client
import json
import re
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from typing import Any, cast

LARGEST = 16 << 20  # bytes of a reply
MOST_TOKENS = 1 << 40  # that a call can be charged for; more is no count
# The service may answer a moment later.
FOR_NOW = {408, 409, 425, 429, 500, 502, 503, 504, 507, 520, 521, 522, 523, 524, 529}
# Every call would be refused.
REFUSED = {401: "the key", 403: "the key", 404: "the address (does it end in /v1?) or the model name"}
FINISHED = {"stop", "eos", "eos_token", "end_turn", "stop_sequence", "end"}
CUT = {"length", "max_tokens", "max_output_tokens", "model_length"}
FILTERED = {"content_filter", "safety", "refusal", "prohibited_content", "recitation"}
_KEY = re.compile(r"\b(?:sk|pk|gsk|hf|xai|AIza)[-_][\w*.…-]{4,}|(?<=Bearer )\S+", re.IGNORECASE)


@dataclasses.dataclass(frozen=True)
class Usage:
    """Tokens that a call was charged for."""

    prompt: int = 0
    completion: int = 0

    @property
    def total(self) -> int:
        """Of both."""
        return self.prompt + self.completion


@dataclasses.dataclass(frozen=True)
class Reply:
    """What one call gave.

    Attributes:
        text: of the reply; empty where there is none.
        usage: zero where the endpoint tells none.
        kind: of the failure, in a short word; None: there is a text to be read.
        reason: of the failure.
        again: another try may succeed.
        wait_s: seconds after which the endpoint wants to be asked again; None: it does not say.
        refused: every call would fail like this one.
    """

    text: str = ""
    usage: Usage = Usage()
    kind: str | None = None
    reason: str = ""
    again: bool = False
    wait_s: float | None = None
    refused: bool = False


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any, **__: Any) -> None:
        return None


class _Deadline:
    """Ends a call's connection when its time is over: a socket's own time-out begins anew with every byte."""

    def __init__(self, seconds: float):
        self.passed = False
        self._connection: http.client.HTTPConnection | None = None
        self._socket: socket.socket | None = None
        self._timer = threading.Timer(seconds, self._end)
        self._timer.daemon = True

    def __enter__(self) -> "_Deadline":
        self._timer.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._timer.cancel()

    def watch(self, connection: http.client.HTTPConnection) -> None:
        """Has it end in time."""
        connect = connection.connect

        def connected() -> None:
            connect()
            self._socket = connection.sock  # the connection forgets it with the last header

        self._connection = connection
        connection.connect = connected

    def _end(self) -> None:
        self.passed = True
        found = self._socket or getattr(self._connection, "sock", None)
        if found is not None:
            with contextlib.suppress(OSError):
                socket.socket.shutdown(found, socket.SHUT_RDWR)


class _Request(urllib.request.Request):
    deadline: _Deadline


class _Watched(urllib.request.AbstractHTTPHandler):
    def do_open(self, http_class: Any, req: Any, **arguments: Any) -> Any:
        def connection(host: str, **settings: Any) -> http.client.HTTPConnection:
            found = http_class(host, **settings)
            req.deadline.watch(found)
            return found

        return super().do_open(cast(Any, connection), req, **arguments)


class _Plain(_Watched, urllib.request.HTTPHandler):
    pass


class _Secure(_Watched, urllib.request.HTTPSHandler):
    pass


_OPENER = urllib.request.build_opener(_NoRedirect, _Plain, _Secure)


def call(url: str, headers: Mapping[str, str], body: Mapping[str, Any], timeout_s: float) -> Reply:
    """Posts a request and reads what comes back within `timeout_s` seconds."""
    request = _Request(url, json.dumps(body).encode(), dict(headers), method="POST")
    with _Deadline(timeout_s) as request.deadline:
        reply = _answer(request, timeout_s)
        # What came of a connection that was ended is not the endpoint's doing.
        return _timeout(timeout_s) if request.deadline.passed and reply.kind is not None else reply


def _answer(request: _Request, timeout_s: float) -> Reply:
    deadline = time.monotonic() + timeout_s
    try:
        with _OPENER.open(request, timeout=timeout_s) as response:
            return read_completion(_read(response, deadline), response.headers.get("Content-Type", ""))
    except urllib.error.HTTPError as error:
        with error:
            return _refusal(error, deadline)
    except TimeoutError:
        return _timeout(timeout_s)
    except (http.client.InvalidURL, ValueError):  # without its text, which may quote the key
        why = "the address, the key or a header holds signs that cannot be sent"
        return Reply(kind="bad_setting", reason=why, refused=True)
    except (urllib.error.URLError, http.client.HTTPException, OSError) as error:
        reason = getattr(error, "reason", None) or error
        if isinstance(reason, TimeoutError):
            return _timeout(timeout_s)
        text = _printable(str(reason)) or type(reason).__name__
        return Reply(kind="connection", reason=f"Connection: {text}", again=True)


def _printable(text: str) -> str:
    """A foreign text for messages: on one line, without signs that steer a terminal."""
    return "".join(sign if sign.isprintable() else "?" for sign in " ".join(text.split()))


def _timeout(seconds: float) -> Reply:
    return Reply(kind="timeout", reason=f"Timeout: no whole reply within {seconds:g} s", again=True)


def _read(response: Any, deadline: float) -> bytes:
    """The body; a server that sends a byte now and then does not get more time for it."""
    pieces: list[bytes] = []
    size, expected = 0, response.headers.get("Content-Length")
    while piece := response.read1(1 << 16):
        pieces.append(piece)
        size += len(piece)
        if time.monotonic() > deadline:
            raise TimeoutError
        if size > LARGEST:
            raise http.client.HTTPException(f"more than {LARGEST >> 20} MiB of a reply")
    if expected is not None and expected.isdigit() and size < int(expected):
        raise http.client.IncompleteRead(b"".join(pieces), int(expected) - size)
    return b"".join(pieces)


def _refusal(error: urllib.error.HTTPError, deadline: float) -> Reply:
    """The failure that a status says."""
    try:
        text = _read(error, deadline).decode(errors="replace")
    except (OSError, http.client.HTTPException):
        text = ""
    said, code = _error_of(text)
    status = error.code
    reason = f"status {status} ({http.client.responses.get(status, 'no known status')}): {said}".rstrip(": ")
    wait = retry_after(error.headers)
    if code in ("insufficient_quota", "billing_hard_limit_reached", "quota_exceeded"):
        return Reply(kind="quota", reason=reason)
    if status in REFUSED:
        return Reply(kind=f"http_{status}", reason=f"{reason}; check {REFUSED[status]}", refused=True)
    if status in (301, 302, 303, 307, 308):
        target = error.headers.get("Location", "another address")
        return Reply(kind=f"http_{status}", reason=f"{reason}; it points to {target}: give that address")
    if status == 429:
        return Reply(kind="rate_limit", reason=reason, again=True, wait_s=wait)
    return Reply(kind=f"http_{status}", reason=reason + _advice(status, said), again=status in FOR_NOW, wait_s=wait)


def _advice(status: int, said: str) -> str:
    """What to set when a request was not taken as it is."""
    text = said.lower()
    if status not in (400, 413, 422):
        return ""
    if "max_tokens" in text and "max_completion_tokens" in text:
        return "; set token_limit=max_completion_tokens"
    if "system" in text and ("role" in text or "message" in text):
        return "; set system_role=none"
    if "temperature" in text:
        return "; set temperature=none (none is sent then)"
    if "context" in text or "too long" in text or "maximum" in text or status == 413:
        return "; the request is too long for this model: lower max_tokens or take a model with a longer context"
    if "max_tokens" in text:
        return "; set token_limit=max_completion_tokens, or another max_tokens"
    if "seed" in text:
        return "; set seed=none"
    return ""


def _error_of(text: str) -> tuple[str, str | None]:
    """Message and code of an error's body."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return ("an HTML page" if _is_html(text, "") else _printable(text)[:300]), None
    if isinstance(found, list) and found:
        found = found[0]
    error = found.get("error", found) if isinstance(found, dict) else found
    if isinstance(error, dict):
        said = error.get("message") or error.get("detail") or json.dumps(error)
        return _printable(str(said))[:300], str(error.get("code") or error.get("type"))
    return _printable(str(error))[:300], None


def retry_after(headers: Any) -> float | None:
    """Seconds that a response asks to wait: `retry-after-ms`, or `Retry-After` as seconds or a date."""
    try:
        if milliseconds := headers.get("retry-after-ms"):
            return max(0.0, float(milliseconds) / 1000)
        value = headers.get("Retry-After")
        if value is None:
            return None
        try:
            return max(0.0, float(value))
        except ValueError:
            return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except (TypeError, ValueError):
        return None


def read_completion(data: bytes, content_type: str) -> Reply:
    """The reply in a body with status 200."""
    text = data.decode(errors="replace")
    if _is_html(text, content_type):
        return Reply(kind="html", reason="an HTML page instead of a reply; does the address end in /v1?", again=True)
    try:
        body = json.loads(text)
    except (ValueError, RecursionError) as error:
        shown = " ".join(text.split())[:80]
        return Reply(kind="broken_json", reason=f"the body is no JSON ({error}): {shown!r}", again=True)
    usage = _usage(body)
    if isinstance(body, dict) and body.get("error"):
        said, code = _error_of(text)
        kind = "quota" if code == "insufficient_quota" else "server_error"
        return Reply(usage=usage, kind=kind, reason=f"an error with status 200: {said}", again=kind != "quota")
    choices = body.get("choices") if isinstance(body, dict) else None
    choice = choices[0] if isinstance(choices, list) and choices else None
    if not isinstance(choice, dict):
        shown = _printable(text)[:80]
        return Reply(usage=usage, kind="empty", reason=f"the reply has no choices, as a chat completion has: {shown!r}")
    message, finish = choice.get("message"), choice.get("finish_reason")
    if not isinstance(message, dict):
        return Reply(usage=usage, kind="empty", reason=f"the reply's message is {message!r:.60}")
    content = _content(message.get("content"))
    if finish is None:
        why = "finish_reason is missing, so the reply may be cut off"
        return Reply(content or "", usage, "no_finish_reason", why)
    finish = str(finish).lower()
    if finish in CUT:
        why = f"the reply was cut off after max_tokens (finish_reason {finish}): set more"
        return Reply(content or "", usage, "truncated", why)
    if message.get("refusal") or finish in FILTERED:
        return Reply(content or "", usage, "refused", f"the judge refused: {message.get('refusal') or finish!s:.200}")
    if finish not in FINISHED:
        return Reply(content or "", usage, "finish_reason", f"finish_reason is {finish!r:.60}, expected 'stop'")
    if content is None:
        return Reply(usage=usage, kind="unparsable", reason=f"the content is {message.get('content')!r:.80}")
    if not content.strip():
        thought = message.get("reasoning_content") or message.get("reasoning")
        why = "the judge thought and said nothing; give it more max_tokens" if thought else "the reply has no text"
        return Reply(usage=usage, kind="unfinished_thinking" if thought else "empty", reason=why)
    return Reply(content, usage)


def _content(value: Any) -> str | None:
    """The text of a message; of several parts those of text, joined; None for anything else."""
    if value is None or isinstance(value, str):
        return value or ""
    if not isinstance(value, list):
        return None
    texts: list[str] = []
    for part in value:
        if isinstance(part, str):
            texts.append(part)
        elif isinstance(part, dict) and part.get("type", "text") in ("text", "output_text"):
            text = part.get("text")
            text = text.get("value") if isinstance(text, dict) else text
            if not isinstance(text, str):
                return None
            texts.append(text)
        elif not (isinstance(part, dict) and part.get("type") in ("thinking", "reasoning", "redacted_thinking")):
            return None
    return "".join(texts)


def _usage(body: Any) -> Usage:
    found = body.get("usage") if isinstance(body, dict) else None
    if not isinstance(found, dict):
        return Usage()

    def tokens(*names: str) -> int:
        values: Sequence[Any] = [found.get(name) for name in names]
        numbers = (v for v in values if isinstance(v, int | float) and not isinstance(v, bool))
        return next((int(v) for v in numbers if 0 <= v < MOST_TOKENS), 0)

    return Usage(tokens("prompt_tokens", "input_tokens"), tokens("completion_tokens", "output_tokens"))


def _is_html(text: str, content_type: str) -> bool:
    start = text.lstrip("\ufeff \t\r\n")[:200].lower()
    return start.startswith(("<!doctype", "<html", "<head", "<body")) or ("html" in content_type and start[:1] == "<")


def redacted(text: str, secrets: Sequence[str]) -> str:
    """A text without keys: those given, and what looks like one."""
    for secret in secrets:
        text = text.replace(secret, "[key]")
    return _KEY.sub("[key]", text)
