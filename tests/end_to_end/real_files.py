"""Made-up files in the layouts of MMRole and PCogAlignBench, pre-training files, and a judge on loopback."""

import contextlib
import json
import random
import re
import threading
import zlib
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from PIL import Image

from lam_jax.rewards.dimensions import HELP, ROLE_PLAY

COLOURS = ("red", "green", "blue", "grey")
PROFILE_FIELDS = ("introduction", "personality", "experience", "relationship", "catchphrase")
CHARACTERS = {"in-distribution": ("Ann Lee", "Bo", "Iron Man"), "out-of-distribution": ("Cy",)}
DIALOGUES = {"Ann Lee": 10, "Bo": 10, "Iron Man": 10, "Cy": 4}  # good ones of each character


def write_pictures(folder: Path) -> None:
    """Pictures of several formats and sizes, 0.png, 1.jpg, .., one of them in a folder below."""
    (folder / "more").mkdir(parents=True)
    for i in range(8):
        size = (112, 84) if i % 2 else (60, 90)
        Image.new("RGB", size, COLOURS[i % 4]).save(folder / picture(i))


def picture(i: int) -> str:
    return f"more/{i % 8}.jpg" if i % 4 == 3 else f"{i % 8}.png"


def write_pretraining(folder: Path, pictures: Path) -> dict[str, str]:
    """Paired and text-only rows, by the recipe's flags."""
    paired, text = [], []
    for i in range(30):
        answer = {"role": "assistant", "content": f"I see a {COLOURS[i % 4]} wall, and it is {COLOURS[i % 3]}."}
        ask = [{"role": "user", "content": "<image>\nWhat do you see?"}, answer]
        image = f"{pictures.name}/{picture(i)}"
        paired.append({"id": f"p{i}", "images": [image], "messages": ask, "instance_type": "cc"})
        text.append({"id": f"t{i}", "messages": [{"role": "user", "content": f"Say {COLOURS[i % 4]}."}, answer]})
    for name, rows in (("paired", paired), ("text", text)):
        (folder / f"{name}.json").write_text(json.dumps(rows))
    return {name: str(folder / f"{name}.json") for name in ("paired", "text")}


def dialogue(character: str, i: int) -> dict[str, Any]:
    """A good one; items name their speakers by "from" or by "role"."""
    key = "from" if i % 2 else "role"
    turns = [
        ("human", f"<image>\nWhat do you see, {character}? ({i})"),
        (character, f"A wall as {COLOURS[i % 4]} as my coat."),
        ("human", "Do you like it?"),
        (character, f"I do, it is {COLOURS[i % 3]} and calm."),
    ]
    name = character.replace(" ", "_")
    return {
        "id": f"{name}_{i}" if i else 7,  # a number is an id too
        "image": picture(i),
        "conversations": [{key: speaker, "value": text} for speaker, text in turns],
    }


def dropped_dialogues() -> list[dict[str, Any]]:
    """Those that the method drops: no picture, no profile, no character, no turns."""
    good = dialogue("Ann Lee", 90)
    return [
        {**good, "id": "gone", "image": "gone.png"},
        {**good, "id": "unnamed", "image": None},
        {**good, "id": "unknown", "conversations": dialogue("Nobody", 1)["conversations"]},
        {**good, "id": "broken profile", "conversations": dialogue("Bad", 1)["conversations"]},
        {**good, "id": "silent", "conversations": [{"from": "human", "value": "Hello?"}]},
        {**good, "id": "empty", "conversations": []},
    ]


def odd_dialogues() -> list[Any]:
    """Those that cannot be used for reasons of their own."""
    good = dialogue("Ann Lee", 91)
    first, *others = good["conversations"]
    return [
        {**good, "id": "no question", "conversations": others[:1]},
        {**good, "id": "blank answer", "conversations": [first, {**others[0], "value": "  "}]},
        {**good, "id": "no value", "conversations": [first, {"from": "Ann Lee"}]},
        {**good, "id": "wrong value", "conversations": [first, {"from": "Ann Lee", "value": ["a"]}]},
        {**good, "id": "no turns", "conversations": "Hello"},
        {**good, "id": "outside", "image": "../MMRole/profiles/in-distribution/detailed_profiles/Bo.json"},
        {key: value for key, value in good.items() if key != "id"},
        dialogue("Ann Lee", 1),  # an id that is there already
        None,
    ]


def write_mmrole(folder: Path) -> dict[str, str]:
    """A raw MMRole folder, with what the real one has that cannot be used, by the recipe's flags."""
    raw, pictures = folder / "MMRole", folder / "pictures"
    write_pictures(pictures)
    for distribution, characters in CHARACTERS.items():
        profiles = raw / "profiles" / distribution / "detailed_profiles"
        profiles.mkdir(parents=True)
        for name in characters:
            profile = {field: f"{name} has a {field} of some words." for field in PROFILE_FIELDS}
            content = profile if name == "Bo" else {name: profile}
            (profiles / f"{name.replace(' ', '_')}.json").write_text(json.dumps(content))
        (profiles / "Bad.json").write_text("{")
        place = raw / "dialogues" / distribution
        (place / "comment").mkdir(parents=True)
        rows = {name: [dialogue(name, i) for i in range(i0, DIALOGUES[name] + i0)] for name, i0 in _first(characters)}
        if distribution == "in-distribution":
            rows["Ann Lee"] += [*dropped_dialogues(), *odd_dialogues()]
            for name, found in rows.items():
                (place / "comment" / f"{name.replace(' ', '_')}.json").write_text(json.dumps(found))
        else:
            (place / "comment.json").write_text(json.dumps(rows["Cy"]))
        # The other kinds of dialogues lie beside them, and are not used.
        (place / "human-role").mkdir()
        (place / "human-role" / "x.json").write_text("[")
    return {"raw": str(raw), "images": str(pictures), **write_pretraining(folder, pictures)}


def _first(characters: tuple[str, ...]) -> list[tuple[str, int]]:
    """Only one dialogue has the number 0, whose id is a number."""
    return [(name, 0 if name == "Ann Lee" else 1) for name in characters]


def write_pcogalign(folder: Path) -> dict[str, str]:
    """The three files of PCogAlignBench, by the recipe's flags."""
    raw, pictures = folder / "PCogAlignBench", folder / "pictures"
    write_pictures(pictures)
    raw.mkdir()
    mixed = random.Random(0)
    for name, rows in (("HCMAS-golden-train", 40), ("HCMAS-golden-test", 5), ("HCSHR-golden-test", 5)):
        found = []
        for i in range(rows):
            roles = {"Community": mixed.choice(("Child", "Member")), "School": "Student", "Home": "Son"}
            found.append(
                {
                    "individual_RoleSet": roles,
                    "query": f"<image>\nWhat should I do here? ({name[:5]} {i})",
                    "golden_response": f"Stay calm near the {COLOURS[i % 4]} wall and tell your teacher.",
                    "image": {"file_path": picture(i), "source": "made up"},
                    "eval_info": {
                        "ImageDesc": f"A {COLOURS[i % 4]} wall.",
                        "location": "School",
                        "EvalHelp": {"BodyBehavior": "Walk away.", "MindFeelings": "Feel safe."},
                    },
                    "split_type": "made up",
                }
            )
        (raw / f"{name}.json").write_text(json.dumps([*found, *odd_rows(found[0])] if rows == 40 else found))
    return {"raw": str(raw), "images": str(pictures), **write_pretraining(folder, pictures)}


def odd_rows(good: dict[str, Any]) -> list[Any]:
    """Rows of PCogAlignBench that cannot be used."""
    return [
        {**good, "golden_response": None},
        {**good, "query": ""},
        {**good, "individual_RoleSet": {}},
        {**good, "image": {"file_path": "gone.png"}},
        {**good, "eval_info": {"location": "School"}},
        "row",
    ]


class LoopbackJudge:
    """Scores by what the prompt says, the same each time; one block a dimension, each with its name as heading."""

    def __init__(self):
        self.calls: list[tuple[str, str]] = []  # model, prompt
        self._lock = threading.Lock()
        judge = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                data = json.dumps(judge.answer(body)).encode()
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *args):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01})
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1"

    def answer(self, body: dict[str, Any]) -> dict[str, Any]:
        prompt = "\n".join(message["content"] for message in body["messages"])
        with self._lock:
            self.calls.append((body["model"], prompt))
        message = {"role": "assistant", "content": verdict(prompt)}
        return {
            "id": "x",
            "object": "chat.completion",
            "created": 0,
            "model": body["model"],
            "choices": [{"index": 0, "finish_reason": "stop", "message": message}],
            "usage": {"prompt_tokens": 100, "completion_tokens": 50, "total_tokens": 150},
        }

    def of(self, model: str) -> list[str]:
        """Prompts that a model was asked."""
        return [prompt for asked, prompt in self.calls if asked == model]


def verdict(prompt: str) -> str:
    """Scores 1 to 10 on the dimensions that the prompt names, by a hash of the prompt."""
    (names,) = (found for found in (ROLE_PLAY, HELP) if all(re.search(re.escape(n), prompt) for n in found))
    blocks = []
    for name in names:
        number = zlib.crc32(f"{name}/{prompt}".encode())
        pair = number % 10 + 1, number // 10 % 10 + 1
        blocks.append(f"### {name}\nBoth say something. [Scores]: ({pair[0]}, {pair[1]})")
    return "\n\n".join(blocks)


@contextlib.contextmanager
def loopback_judge() -> Iterator[LoopbackJudge]:
    judge = LoopbackJudge()
    judge.thread.start()
    try:
        yield judge
    finally:
        judge.server.shutdown()
        judge.thread.join()
        judge.server.server_close()
