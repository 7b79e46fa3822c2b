"""A judge on the loopback interface that knows the true scores of every answer and fails as it is told to.

An answer is known by its number, "answer 17."; its scores and the reference's follow from it. The server records what
it did for each call: the truth that verdicts are compared with is its own, not the client's.
"""

import collections
import contextlib
import json
import re
import socket
import struct
import threading
import time
import zlib
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from lam_jax.rewards.dimensions import ROLE_PLAY, ROLE_PLAY_RUBRIC
from lam_jax.rewards.judge_prompt import JudgeRequest

REFERENCE = "the reference answer."
# Fault -> the kind under which the client has to count it; None: the reply is good.
FAULTS: dict[str, str | None] = {
    "429": "rate_limit",
    "500": "http_500",
    "timeout": "timeout",
    "dropped": "connection",
    "cut_body": "connection",
    "empty": "empty",
    "truncated": "truncated",
    "cut_silently": "unparsable",
    "malformed": "broken_json",
    "html": "html",
    "null_message": "empty",
    "no_choices": "empty",
    "filtered": "refused",
    "unfinished_think": "unfinished_thinking",
    "out_of_range": "out_of_range",
    "few": "missing_dimension",
    "unnamed": "missing_dimension",
    "ranges": "unparsable",
    "prose": "unparsable",
    "slow": None,
    "think": None,
    "reordered": None,
    "overall": None,
    "parts": None,
}


def true_scores(number: int) -> dict[str, tuple[float, float]]:
    """(score of the answer, score of the reference) of each dimension."""
    return {
        name: (zlib.crc32(f"a{number}{name}".encode()) % 10 + 1, zlib.crc32(f"r{number}{name}".encode()) % 10 + 1)
        for name in ROLE_PLAY
    }


def request(number: int) -> JudgeRequest:
    """To judge answer `number`."""
    messages = ({"role": "system", "content": "You are Iron Man."}, {"role": "user", "content": "What is this?"})
    return JudgeRequest(f"row{number // 4}", number % 4, ROLE_PLAY_RUBRIC, messages, f"answer {number}.", REFERENCE)


class FaultyJudge:
    """A server; `fault(number of the answer, number of its call)` names the fault of a call, or None.

    Attributes:
        calls: (number of the answer, fault) of each call, in order.
        good: how many usable replies each answer got.
    """

    def __init__(self, fault: Callable[[int, int], str | None] = lambda number, call: None, delay_s: float = 0.0):
        self.fault, self.delay_s = fault, delay_s
        self.calls: list[tuple[int, str | None]] = []
        self.good: collections.Counter[int] = collections.Counter()
        self.closing = threading.Event()
        self._lock = threading.Lock()
        fake = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # the client gave up
                    fake.answer(self, json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

            def log_message(self, *args):
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads, request_queue_size = True, 128

            def handle_error(self, request, client_address):
                pass

        self.server = Server(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01})
        self.thread.start()
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1"

    def __enter__(self) -> "FaultyJudge":
        return self

    def __exit__(self, *_: Any) -> None:
        self.closing.set()
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()

    def answer(self, handler: BaseHTTPRequestHandler, body: dict[str, Any]) -> None:
        prompt = body["messages"][1]["content"]
        number = int(re.search(r"^answer (\d+)\.", prompt, re.MULTILINE)[1])
        swapped = prompt.index(REFERENCE) < prompt.index(f"answer {number}.")
        with self._lock:
            fault = self.fault(number, sum(n == number for n, _ in self.calls))
            self.calls.append((number, fault))
        time.sleep(self.delay_s)
        self._reply(handler, fault, number, swapped)
        if FAULTS.get(fault or "") is None:
            with self._lock:
                self.good[number] += 1

    def _reply(self, handler: BaseHTTPRequestHandler, fault: str | None, number: int, swapped: bool) -> None:
        if fault in ("429", "500"):
            return _send(handler, int(fault), json.dumps({"error": {"message": "not now"}}), {"retry-after-ms": "5"})
        if fault == "timeout":
            self.closing.wait(20)
            return None
        if fault == "dropped":  # a reset instead of an answer
            handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            handler.connection.close()
            return None
        if fault == "html":
            return _send(handler, 200, "<!DOCTYPE html><html>[Scores]: (9, 9)</html>", {"Content-Type": "text/html"})
        text, finish = paragraphs(number, swapped, fault), "stop"
        if fault == "truncated":
            text, finish = text[: text.rindex(",") + 3], "length"
        elif fault == "filtered":
            finish = "content_filter"
        message: Any = {"role": "assistant", "content": text}
        if fault == "parts":
            middle = len(text) // 2
            message["content"] = [{"type": "text", "text": text[:middle]}, {"type": "text", "text": text[middle:]}]
        if fault == "null_message":
            message = None
        choices = [] if fault == "no_choices" else [{"index": 0, "finish_reason": finish, "message": message}]
        data = json.dumps({"choices": choices, "usage": {"prompt_tokens": 100, "completion_tokens": 10}})
        if fault == "malformed":
            data = data[: len(data) // 2]
        if fault == "cut_body":
            _send(handler, 200, data[:-30], {"Content-Length": str(len(data))})
            handler.close_connection = True
            return None
        if fault == "slow":
            time.sleep(0.1)
        return _send(handler, 200, data, {})


def paragraphs(number: int, swapped: bool, fault: str | None) -> str:
    """The text of a reply with the true scores, spoiled as the fault says."""
    lines = []
    for name, (answer, reference) in true_scores(number).items():
        first, second = (reference, answer) if swapped else (answer, reference)
        lines.append(f"{name}: both are fine. [Scores]: ({first}, {second})")
    if fault == "few":
        lines.pop(3)
    elif fault == "reordered":
        lines.reverse()
    elif fault == "overall":
        lines.append("Overall: good. [Scores]: (9, 9)")
    elif fault == "unnamed":
        lines = [line.partition(": ")[2] for line in lines]
    elif fault == "out_of_range":
        lines[2] = lines[2].rpartition("(")[0] + "(11, 3)"
    elif fault == "ranges":
        lines[5] = lines[5].rpartition("(")[0] + "(7-8, 6-7)"
    text = "\n".join(lines)
    return {
        "cut_silently": text[:-1],
        "empty": "",
        "prose": "Both answers are fine, (9, 9) for all.",
        "think": "<think>\nFluency: [Scores]: (1, 10)\n</think>\n" + text,
        "unfinished_think": "<think>\n" + text,
    }.get(fault or "", text)


def steady(first: int, second: int) -> Callable[[BaseHTTPRequestHandler, dict[str, Any]], None]:
    """An answer of a `FaultyJudge` that gives every pair of texts these scores."""
    text = "\n".join(f"{name}: fine. [Scores]: ({first}, {second})" for name in ROLE_PLAY)
    message = {"role": "assistant", "content": text}
    data = {"choices": [{"finish_reason": "stop", "message": message}], "usage": {"prompt_tokens": 9}}
    return lambda handler, body: _send(handler, 200, json.dumps(data), {})


def refusal(status: int, said: str) -> Callable[[BaseHTTPRequestHandler, dict[str, Any]], None]:
    """An answer of a `FaultyJudge` that refuses every call."""
    return lambda handler, body: _send(handler, status, json.dumps({"error": {"message": said}}), {})


def _send(handler: BaseHTTPRequestHandler, status: int, text: str, headers: dict[str, str]) -> None:
    data = text.encode()
    handler.send_response(status)
    for name, value in ({"Content-Type": "application/json", "Content-Length": str(len(data))} | headers).items():
        handler.send_header(name, value)
    handler.end_headers()
    handler.wfile.write(data)
