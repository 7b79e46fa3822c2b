"""One process holds a folder, on file systems with `flock` and without; what a dead one left holds nothing."""

import errno
import fcntl
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from lam_jax.errors import RunFolderBusyError
from lam_jax.runs import lock
from lam_jax.runs.lock import HeldError, acquire, owner_file
from lam_jax.runs.progress import Progress
from lam_jax.runs.run import Run

ROOT = Path(__file__).parents[2]
UNSUPPORTED = [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL, errno.EIO, errno.ENOTTY]
HOLD = """
import errno, fcntl, sys
def refuse(*_): raise OSError(errno.ENOLCK, "No locks available")
if sys.argv[2] == "refused": fcntl.flock = refuse
from pathlib import Path
from lam_jax.runs.lock import acquire
held = acquire(Path(sys.argv[1]))
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture(params=["flock", "refused"])
def kind(request, monkeypatch):
    if request.param == "refused":
        refuse(monkeypatch, errno.ENOLCK)
    return request.param


def refuse(monkeypatch, number: int) -> None:
    def flock(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", flock)


def holder(path: Path, kind: str) -> subprocess.Popen:
    """Another process that holds the lock until its input ends."""
    command = [sys.executable, "-c", HOLD, str(path), kind]
    process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_one_has_it_and_the_next_gets_it_after(tmp_path, kind):
    path = tmp_path / ".lock"
    held = acquire(path)
    with pytest.raises(HeldError):
        acquire(path)
    held.release()
    held.release()
    acquire(path).release()
    assert [file.name for file in tmp_path.iterdir()] == [".lock"]


def test_another_process_has_it_until_it_is_killed(tmp_path, kind):
    path = tmp_path / ".lock"
    process = holder(path, kind)
    with pytest.raises(
        HeldError, match="another process" if kind == "flock" else f"process {process.pid} of this host"
    ):
        acquire(path)
    process.kill()
    process.wait()
    acquire(path).release()


@pytest.mark.parametrize("number", UNSUPPORTED, ids=errno.errorcode.get)
def test_a_run_opens_where_files_cannot_be_locked_and_still_keeps_a_second_one_out(
    tmp_path, monkeypatch, caplog, number
):
    refuse(monkeypatch, number)
    with Run(tmp_path / "run", {}, Progress(enabled=False)):
        assert "this file system cannot lock files" in caplog.text
        with pytest.raises(RunFolderBusyError, match=f"in use by process {os.getpid()} of this host"):
            Run(tmp_path / "run", {}, Progress(enabled=False))
    Run(tmp_path / "run", {}, Progress(enabled=False)).close()


def left(path: Path, **changes) -> None:
    """What another process left, as this process would leave it but for the changes."""
    owner_file(path).write_text(json.dumps(lock._this_process() | changes))


@pytest.mark.parametrize(
    "changes",
    [
        {"pid": 2**22 + 1},  # above any number that Linux gives
        {"began": "1"},  # its number was given to another process, as in a container that is started again
        {"boot": "another"},
    ],
)
def test_what_ended_on_this_host_holds_nothing_and_needs_no_word(tmp_path, monkeypatch, caplog, changes):
    refuse(monkeypatch, errno.ENOSYS)
    left(tmp_path / ".lock", **changes)
    acquire(tmp_path / ".lock").release()
    assert "taken to have ended" not in caplog.text


@pytest.mark.parametrize("changes", [{"host": "pod-7"}, {"namespace": "pid:[1]"}])
def test_what_another_host_or_container_left_is_taken_over_with_a_warning(tmp_path, monkeypatch, caplog, changes):
    refuse(monkeypatch, errno.EOPNOTSUPP)
    left(tmp_path / ".lock", **changes)
    acquire(tmp_path / ".lock").release()
    assert f"process {os.getpid()} on {changes.get('host', socket.gethostname())} uses this folder" in caplog.text


@pytest.mark.parametrize("content", [b"", b"junk", b"[1]", b'{"pid": "x"}', b"\xff"])
def test_a_damaged_owner_file_holds_nothing(tmp_path, monkeypatch, content):
    refuse(monkeypatch, errno.ENOLCK)
    owner_file(tmp_path / ".lock").write_bytes(content)
    acquire(tmp_path / ".lock").release()


def test_without_any_lock_it_goes_on_with_a_warning(tmp_path, monkeypatch, caplog):
    refuse(monkeypatch, errno.ENOLCK)
    path = tmp_path / ".lock"
    path.touch()
    real = Path.open

    def opened(self, mode="r", *args, **kwargs):
        if mode == "xb":
            raise OSError(errno.EOPNOTSUPP, "not here")
        return real(self, mode, *args, **kwargs)

    monkeypatch.setattr(Path, "open", opened)
    acquire(path).release()
    assert "nothing keeps other processes out" in caplog.text


def test_a_lock_that_was_taken_over_is_not_removed_by_its_first_holder(tmp_path, monkeypatch):
    refuse(monkeypatch, errno.ENOLCK)
    path = tmp_path / ".lock"
    first = acquire(path)
    left(path, host="pod-7")  # as if another host had taken it over
    first.release()
    assert owner_file(path).exists()


def test_the_owner_file_of_a_long_name_has_a_short_one(tmp_path, monkeypatch):
    refuse(monkeypatch, errno.ENOLCK)
    path = tmp_path / ("狮" * 81)
    held = acquire(path)
    with pytest.raises(HeldError):
        acquire(path)
    held.release()
