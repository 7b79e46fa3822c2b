"""Golden answers by a model on the loopback interface: filled in, resumed, never made up; the 80/20 split."""

import json
import random
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from lam_jax.cli import main
from lam_jax.corpora.build import Sampling
from lam_jax.corpora.built import BuiltRows
from lam_jax.corpora.golden import GoldenError, GoldenWriter, build_pcogalign_golden, golden_messages, read_sets
from lam_jax.errors import BadSettingError
from lam_jax.rewards.judge_config import JudgeConfig
from lam_jax.tasks.pcogalign import FILES, PCogAlignRows
from tests.corpora.made import picture


class Server:
    """Answers each question by `reply(question, call)`: a text, a whole choice, or an HTTP status."""

    def __init__(self):
        self.reply = lambda question, call: f"Answer to {question}"
        self.bodies, self.lock = [], threading.Lock()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with outer.lock:
                    outer.bodies.append(body)
                    call = len(outer.bodies)
                content = body["messages"][-1]["content"]
                text = content if isinstance(content, str) else content[-1]["text"]
                question = text.split("question: ")[1].split("\n")[0]
                reply = outer.reply(question, call)
                status = reply if isinstance(reply, int) else 200
                choice = reply if isinstance(reply, dict) else {"finish_reason": "stop", "message": {"content": reply}}
                data = json.dumps({"error": "no"} if status != 200 else {"choices": [choice]}).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *args):
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.01})
        self.thread.start()
        self.url = f"http://127.0.0.1:{self.http.server_port}/v1"

    def close(self):
        self.http.shutdown()
        self.thread.join()
        self.http.server_close()


@pytest.fixture
def server():
    made = Server()
    yield made
    made.close()


def row(question, **changes):
    return {
        "individual_RoleSet": {"Home": "Parent"},
        "query": question,
        "image": {"file_path": "a.png"},
        "eval_info": {"ImageDesc": "A cat.", "location": "Home", "EvalHelp": ["Kind words."]},
    } | changes


@pytest.fixture
def raw(tmp_path):
    folder = tmp_path / "raw"
    folder.mkdir()
    (folder / "a.png").write_bytes(picture(kind="PNG"))
    rows = [row(f"h{i}") for i in range(20)]
    rows[3] |= {"golden_response": "My own."}
    (folder / "HCMAS-train.json").write_text(json.dumps(rows))
    (folder / "HCMAS-test.json").write_text(json.dumps([row("t0"), row("t1", image={"file_path": "../a.png"}), 5]))
    (folder / "HCSHR-test.json").write_text(json.dumps([row("r0"), row("r1", query=" ")]))
    return folder


def writer(server, **changes):
    return GoldenWriter(JudgeConfig(server.url, "writer", **({"max_retries": 0, "concurrency": 2} | changes)))


def golden(folder, name):
    return {r["query"]: r["golden_response"] for r in json.loads((folder / f"{name}.json").read_text())}


def test_missing_answers_are_filled_in_and_nothing_else(raw, server, tmp_path):
    out = tmp_path / ("狮" * 81)  # 243 bytes: with an ending a name may be too long
    built = build_pcogalign_golden(raw, out, Sampling(), raw, writer(server))
    assert golden(out, FILES[0]) == {f"h{i}": "My own." if i == 3 else f"Answer to h{i}" for i in range(20)}
    assert golden(out, FILES[1]) == {"t0": "Answer to t0"}
    assert golden(out, FILES[2]) == {"r0": "Answer to r0"}
    assert built.about.dropped == {"image outside the folder": 1, "no object": 1, "no question": 1}
    assert len(server.bodies) == 21
    assert built.about.rows == {"sft": 9, "rl": 4, "val": 1, "ls1": 1, "ls2": 1}
    for split in built.about.rows:
        plain = PCogAlignRows(str(out), str(raw)).read(tmp_path, split)
        records = {e.id: e for e in BuiltRows(str(out)).read(tmp_path, split)}
        assert {e.id: e.messages for e in plain} == {name: e.messages for name, e in records.items()}
        assert all(e.facts["EvalHelp"] == ["Kind words."] for e in records.values())
        assert all(str(e.where).startswith("HC") for e in records.values()), "no temporary folder in a place"
    assert build_pcogalign_golden(raw, out, Sampling(), raw, writer(server)).was_there
    assert len(server.bodies) == 21


def test_failed_calls_leave_rows_out_and_answers_are_paid_for_once(raw, server, tmp_path):
    bad = {
        "h1": 500,
        "h2": {"finish_reason": "length", "message": {"content": "cut o"}},
        "h4": "  ",
        "h5": "<think>a draft that never ends",
        "h6": {"finish_reason": "stop", "message": None},
        "h7": {"finish_reason": "content_filter", "message": {"content": "no"}},
    }
    server.reply = lambda question, call: bad.get(question, f"<think>hm</think> Answer to {question}")
    built = build_pcogalign_golden(raw, tmp_path / "a", Sampling(), raw, writer(server))
    assert built.about.dropped["no answer from the model"] == 6
    found = golden(tmp_path / "a", FILES[0])
    assert not set(bad) & set(found)
    assert found["h8"] == "Answer to h8"
    places = [json.loads(line) for line in (tmp_path / "a" / "drops.jsonl").read_text().splitlines()]
    assert sorted(p["row"] for p in places if p["reason"] == "no answer from the model") == [1, 2, 4, 5, 6, 7]
    calls = len(server.bodies)
    (tmp_path / "a.answers.jsonl").rename(tmp_path / "b.answers.jsonl")
    with (tmp_path / "b.answers.jsonl").open("a") as file:
        file.write('\n{"key": "cut of')
    bad.clear()
    again = build_pcogalign_golden(raw, tmp_path / "b", Sampling(), raw, writer(server))
    assert len(server.bodies) == calls + 6, "only those that had failed are asked for"
    assert set(golden(tmp_path / "b", FILES[0])) == {f"h{i}" for i in range(20)}
    assert "no answer from the model" not in again.about.dropped


@pytest.mark.parametrize(
    ("status", "message"), [(401, "refuses the model 'writer'"), (500, r"2\d failed calls in a row")]
)
def test_an_endpoint_that_refuses_everything_stops_the_build(raw, server, tmp_path, status, message):
    rows = [row(f"q{i}") for i in range(100)]
    (raw / "HCMAS-train.json").write_text(json.dumps(rows))
    server.reply = lambda question, call: status
    with pytest.raises(GoldenError, match=message):
        build_pcogalign_golden(raw, tmp_path / "out", Sampling(), raw, writer(server))
    assert len(server.bodies) < 30
    assert not (tmp_path / "out").exists()


def test_rows_without_answers_need_a_writer(raw, tmp_path):
    with pytest.raises(BadSettingError, match=r"row 0: found no golden_response in this and 18 more rows.*--judge URL"):
        build_pcogalign_golden(raw, tmp_path / "out", Sampling(), raw)


def test_a_set_in_one_file_is_split_80_to_20_with_the_seed(raw):
    rows = [row(f"q{i}") for i in range(10)]
    (raw / "HCMAS-train.json").unlink()
    (raw / "HCMAS-test.json").unlink()
    (raw / "HCMAS.json").write_text(json.dumps(rows))
    sets = read_sets(raw)
    order = list(range(10))
    random.Random(42).shuffle(order)
    assert [r["query"] for r, _ in sets[FILES[0]]] == [f"q{i}" for i in order[:8]]
    assert [r["query"] for r, _ in sets[FILES[1]]] == [f"q{i}" for i in order[8:]]
    assert [where.row for _, where in sets[FILES[1]]] == order[8:]


def test_what_the_writer_is_shown():
    system, user = golden_messages(row("What now?"))
    assert system["content"] == 'You are a helpful assistant for a user who is "Parent at Home".'
    for text in ("A cat.", "Home", "Kind words.", "What now?"):
        assert text in user["content"]
    picture_part, text_part = golden_messages(row("What now?"), picture())[1]["content"]
    assert picture_part["image_url"]["url"].startswith("data:image/jpeg;base64,")
    assert text_part["text"] == user["content"]


def test_the_endpoint_is_asked_as_a_judge_is(raw, server, tmp_path, monkeypatch):
    """No package is needed for it, a key is sent and never shown, and what a model refuses is a setting."""
    monkeypatch.setitem(sys.modules, "openai", None)
    monkeypatch.setenv("MY_KEY", "sk-very-secret")
    refused = {"finish_reason": "stop", "message": {"content": "ok", "refusal": "not with sk-very-secret"}}
    server.reply = lambda question, call: refused if question == "r0" else f"Answer to {question}"
    settings = ["--judge-settings", "api_key_env=MY_KEY", "temperature=none", "token_limit=max_completion_tokens"]
    command = ["data", "build", "pcogalign", str(raw), "--out", str(tmp_path / "out"), "--judge", server.url]
    with pytest.raises(SystemExit):  # without settings of an endpoint there is none
        main([*command[:6], "--judge-settings", "seed=1"])
    assert main([*command, "--judge-model", "writer", *settings]) == 0
    assert golden(tmp_path / "out", FILES[1]) == {"t0": "Answer to t0"}
    assert all(body["max_completion_tokens"] == 1024 for body in server.bodies)
    assert not any(body.keys() & {"temperature", "max_tokens"} for body in server.bodies)
    assert "no answer from the model" in (tmp_path / "out" / "drops.jsonl").read_text()
    assert not any(b"very-secret" in file.read_bytes() for file in tmp_path.rglob("*") if file.is_file())
