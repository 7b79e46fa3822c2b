"""A server under load: throughput of many requests at once, answers, memory. `python -m benchmarks.serve AGENT`

The same requests, each with a seed of its own, are sent one after the other and `--at-once` at a time, to one server
in one run, by another process, so that clients do not share the server's interpreter; both orders are repeated
`--repeats` times, in turn. Then `--mixed` requests follow, valid ones, bad ones
and cut connections, 32 at a time, and the resident memory of the process is printed on the way. Every valid answer is
compared with that of `generate` for its seed.
"""

import argparse
import base64
import functools
import gc
import io
import json
import multiprocessing
import socket
import statistics
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

from lam_jax.agents.load import load
from lam_jax.agents.loaded import LoadedAgent
from lam_jax.agents.prompts import prompt_of
from lam_jax.serving.counters import resident_bytes
from lam_jax.serving.server import Server
from lam_jax.serving.settings import ServeSettings

MIB = 2**20
QUESTIONS = ("What do you see?", "Name one thing.", "What is on the left?", "Describe it.")


def picture(seed: int) -> bytes:
    """A PNG of coloured noise."""
    noise = np.random.default_rng(seed).integers(0, 256, (12, 16, 3), np.uint8)
    out = io.BytesIO()
    Image.fromarray(noise).resize((112, 84)).save(out, "PNG")
    return out.getvalue()


PICTURES = [picture(seed) for seed in range(4)]


def request(server: Server, number: int, **options: object) -> bytes:
    """The body of valid request `number`."""
    content: list[dict] = [{"type": "text", "text": QUESTIONS[number % 4]}]
    if number % 2:
        url = "data:image/png;base64," + base64.b64encode(PICTURES[number % 4]).decode()
        content.insert(0, {"type": "image_url", "image_url": {"url": url}})
    messages = [{"role": "user", "content": content}]
    return json.dumps({"model": server.name, "messages": messages, "seed": number} | options).encode()


def post(url: str, body: bytes) -> tuple[int, dict]:
    """Status and reply."""
    asked = urllib.request.Request(url + "/chat/completions", body, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(asked, timeout=600) as reply:
            return reply.status, json.load(reply)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def leave(server: Server, body: bytes) -> None:
    """Sends a request and cuts the connection."""
    host, port = server.url.removeprefix("http://").removesuffix("/v1").split(":")
    with socket.create_connection((host, int(port))) as connection:
        head = "POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        connection.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)


def wanted(agent: LoadedAgent, number: int) -> tuple[str, list[int]]:
    """Text and codes that `generate` gives for request `number`."""
    images = [PICTURES[number % 4]] if number % 2 else []
    (row,) = agent.generate([prompt_of(QUESTIONS[number % 4], images, "q")], seed=number)
    return row.answers[0].text, row.answers[0].actions


def said(reply: dict) -> tuple[str, list[int]]:
    """Text and codes of a reply."""
    (choice,) = reply["choices"]
    return choice["message"]["content"], choice.get("codes")


def send(url: str, bodies: list[bytes], at_once: int) -> tuple[float, list[tuple[int, dict]]]:
    """Seconds for all, and their replies in order; for a process of clients."""
    began = time.perf_counter()
    if at_once == 1:
        replies = [post(url, body) for body in bodies]
    else:
        with ThreadPoolExecutor(at_once) as pool:
            replies = list(pool.map(functools.partial(post, url), bodies))
    return time.perf_counter() - began, replies


def timed(run: Callable[[], object]) -> float:
    """Seconds."""
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


def mixed(server: Server, agent: LoadedAgent, answers: dict[int, tuple[str, list[int]]], number: int) -> str:
    """One request of the mixture; what became of it."""
    kind = number % 8
    if kind == 5:
        leave(server, request(server, number))
        return "cut"
    if kind < 5:
        asked = number % len(answers)
        status, reply = post(server.url, request(server, asked))
        if status == 429:
            return "429"
        return "as generate" if status == 200 and matches(agent, said(reply), answers[asked]) else "OTHER"
    bad = request(server, number, tools=[{}]) if kind == 6 else b" " * (server.settings.body + 1)
    status, reply = post(server.url, bad)
    return f"{status}" if 400 <= status < 500 and reply["error"]["message"] else "OTHER"


def matches(agent: LoadedAgent, found: tuple[str, list[int]], expected: tuple[str, list[int]]) -> bool:
    """Whether a reply is the answer; in the token space there are no codes."""
    return found[0] == expected[0] and (found[1] is None or found[1] == expected[1])


def main() -> None:
    """Runs it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("agent", type=Path)
    parser.add_argument("--requests", type=int, default=48)
    parser.add_argument("--at-once", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--mixed", type=int, default=2000)
    parser.add_argument("--task")
    parser.add_argument("--space")
    given = parser.parse_args()
    agent = load(given.agent, task=given.task, space=given.space)
    answers = {number: wanted(agent, number) for number in range(given.requests)}
    alone = timed(lambda: [wanted(agent, number) for number in range(given.requests)])
    tokens = sum(len(codes) for _, codes in answers.values())
    print(f"generate, one after the other: {tokens / alone:.0f} tokens/s")
    settings = ServeSettings(port=0, slots=given.at_once, queue=64, body=MIB)
    clients = ProcessPoolExecutor(1, multiprocessing.get_context("spawn"))
    with clients, Server(agent, settings) as server:
        bodies = [request(server, number) for number in answers]

        def measured(at_once: int) -> float:
            seconds, replies = clients.submit(send, server.url, bodies, at_once).result()
            assert all(status == 200 for status, _ in replies), replies
            same = sum(matches(agent, said(reply), answers[n]) for n, (_, reply) in zip(answers, replies, strict=True))
            assert same == len(answers), f"{same} of {len(answers)} answers are those of generate"
            return seconds

        ratios = []
        measured(given.at_once)  # whatever has to be compiled
        for _ in range(given.repeats):
            one, many = measured(1), measured(given.at_once)
            ratios.append(one / many)
            speeds = f"one after the other {tokens / one:.0f} tokens/s, at once {tokens / many:.0f}"
            print(f"{speeds}, ratio {one / many:.2f}; all answers as generate gives them", flush=True)
        print(f"ratio: median {statistics.median(ratios):.2f}, least {min(ratios):.2f}")
        counts: dict[str, int] = {}
        with ThreadPoolExecutor(32) as pool:
            for part in range(0, given.mixed, 250):
                numbers = range(part, min(part + 250, given.mixed))
                for found in pool.map(lambda n: mixed(server, agent, answers, n), numbers):
                    counts[found] = counts.get(found, 0) + 1
                gc.collect()
                print(f"after {numbers[-1] + 1} mixed requests: {resident_bytes() / MIB:.0f} MiB resident", flush=True)
        print("mixed:", ", ".join(f"{count} {name}" for name, count in sorted(counts.items())))


if __name__ == "__main__":
    main()
