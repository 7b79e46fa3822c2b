"""Watchdogs over children that are little scripts: who ends, who is named, with which exit code."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lam_jax.hosts import heartbeat
from lam_jax.hosts.watchdog import Limits, Peers, default_name

ROOT = Path(__file__).parents[2]
BEAT = "from lam_jax.hosts.heartbeat import beat; import time, os, signal, sys\n"
WATCHER = """
import sys
from pathlib import Path
from lam_jax.hosts.watchdog import Limits, Watchdog
name, folder, patience, code = sys.argv[1:]
limits = Limits(float(patience), silence=60.0, grace=0.5)
sys.exit(Watchdog([sys.executable, "-c", code], Path(folder), name, limits).run())
"""


def watched(name, folder, code, patience=60.0):
    words = [sys.executable, "-c", WATCHER, name, str(folder), str(patience), BEAT + code]
    return subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_exit_code_of_the_child_is_passed_on(tmp_path):
    dogs = [watched("process_0", tmp_path / str(code), f"sys.exit({code})") for code in (0, 10, 130)]
    found = [(dog.wait(timeout=60), dog.communicate()[1]) for dog in dogs]
    assert found[0] == (0, "")
    assert found[1] == (10, "watchdog: process_0, phase start, step 0: was preempted and saved.\n")
    assert found[2] == (130, "watchdog: process_0, phase start, step 0: was interrupted from the keyboard.\n")


def test_a_step_that_hangs_is_ended_with_its_stack(tmp_path):
    dog = watched("process_0", tmp_path, "beat('rl_latent', 7)\ndef stuck():\n  time.sleep(600)\nstuck()", patience=8)
    _, complaint = dog.communicate(timeout=60)
    assert dog.returncode == 12
    assert "process_0, phase rl_latent, step 7: no progress for 8 s" in complaint
    assert "in stuck" in complaint


def test_a_process_that_died_is_named_by_the_others(tmp_path):
    alive = watched("process_0", tmp_path, "beat('sft', 3); time.sleep(600)")
    while not (tmp_path / "process_0.child.json").exists():
        time.sleep(0.05)
    dead = watched("process_1", tmp_path, "beat('sft', 4); os.kill(os.getpid(), signal.SIGKILL)")
    complaints = [dog.communicate(timeout=60)[1] for dog in (alive, dead)]
    assert (alive.returncode, dead.returncode) == (13, 137)
    assert "process_1, phase sft, step 4: was killed by SIGKILL" in complaints[1]
    assert "process_0, phase sft, step 3: ended by its watchdog, because process_1 on " in complaints[0]
    assert "(phase sft, step 4) was killed by SIGKILL" in complaints[0]


def test_a_fault_is_put_down_to_a_dead_peer_only_where_there_is_one(tmp_path):
    fault = "beat('sft', 3); os.kill(os.getpid(), signal.SIGSEGV)"
    lonely = watched("process_0", tmp_path / "alone", fault)
    waiting = f"while not os.path.exists({str(tmp_path / 'gone')!r}): time.sleep(0.01)\n{fault}"
    dying = f"time.sleep(3); open({str(tmp_path / 'gone')!r}, 'w').close(); os.kill(os.getpid(), signal.SIGKILL)"
    pair = [watched("process_0", tmp_path, f"beat('sft')\n{waiting}"), watched("process_1", tmp_path, dying)]
    complaints = [dog.communicate(timeout=60)[1] for dog in (lonely, *pair)]
    assert (lonely.returncode, *(dog.returncode for dog in pair)) == (139, 13, 137)
    assert "was killed by SIGSEGV." in complaints[0]
    assert "was killed by SIGSEGV, because process_1" in complaints[1]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_reach_the_child_as_sigterm(tmp_path, number):
    """Ctrl-C too: the terminal has sent the child one of its own, and a second would end it without saving."""
    ignore = "signal.signal(signal.SIGINT, lambda *_: sys.exit(1)); "
    code = ignore + "signal.signal(signal.SIGTERM, lambda *_: sys.exit(10)); beat('sft'); time.sleep(600)"
    dog = watched("process_0", tmp_path, code)
    while not (tmp_path / "process_0.child.json").exists():
        time.sleep(0.05)
    dog.send_signal(number)
    dog.communicate(timeout=60)
    assert dog.returncode == 10


def test_files_of_an_earlier_run_are_no_news(tmp_path):
    old = {"state": "ended", "code": 137, "host": "h", "phase": "p", "step": 1}
    heartbeat.write(tmp_path / "process_1.watchdog.json", old)
    peers = Peers(tmp_path, "process_0")
    assert peers.look() == {}
    heartbeat.write(tmp_path / "process_1.watchdog.json", old | {"step": 2})
    assert peers.look()["process_1"][0]["step"] == 2


def test_heartbeats_are_written_where_the_environment_says(tmp_path, monkeypatch):
    monkeypatch.setattr(heartbeat._Last, "phase", "")
    heartbeat.beat("phase", 1)
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setenv(heartbeat.FILE, str(tmp_path / "beat.json"))
    heartbeat.beat("phase", 2)
    content = json.loads((tmp_path / "beat.json").read_text())
    assert (content["phase"], content["step"]) == ("phase", 2)


def test_names_and_limits():
    four = {"LAM_JAX_COORDINATOR": "h:1", "LAM_JAX_PROCESSES": "4", "LAM_JAX_PROCESS": "3"}
    assert default_name(four) == "process_3"
    assert default_name({"LAM_JAX_PROCESSES": "tpu", "TPU_WORKER_ID": "5"}) == "process_5"
    assert default_name({}) == "process_0"
    with pytest.raises(ValueError, match="patience: found 0, expected seconds above 0"):
        Limits(patience=0)
