"""Agents in two processes: files of rows are answered and runs exported as by one."""

from pathlib import Path

import pytest

from tests.agents import made_agents as made
from tests.agents.made_run import make_run
from tests.processes.test_processes import launch

pytestmark = pytest.mark.processes
TWO = {"devices": 2, "processes": 2}


def finish(folder: Path, started) -> None:
    codes = [process.wait(timeout=900) for process in started]
    assert not any(codes), "\n".join(log.read_text()[-3000:] for log in folder.parent.glob(f"{folder.name}_*.log"))


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_file_is_answered_once_and_as_by_one_process(tmp_path, qwen_config, make_tokenizer):
    agent = made.hugging_face(tmp_path / "hf", made.small(qwen_config), make_tokenizer(default_system=True))
    rows = made.write_rows(tmp_path / "rows.jsonl", 5)

    def answer(name: str, mesh: str, **where: int) -> bytes:
        output = tmp_path / f"{name}.jsonl"
        args = ["generate", str(agent), "--input", str(rows), "--output", str(output), "--length", "8", "--batch", "2"]
        args += ["--temperature", "1", "--samples", "3", "--mesh", *mesh]
        finish(tmp_path / name, launch(tmp_path / name, "lam_jax", args, **where))
        return output.read_bytes()

    one = answer("one", "111", devices=1, processes=1)
    assert answer("two", "221", **TWO) == one
    lines = one.splitlines(keepends=True)
    (tmp_path / "two.jsonl").write_bytes(b"".join(lines[:3]) + lines[3][:9])
    assert answer("two", "221", **TWO) == one


def test_an_export_is_that_of_one_process(tmp_path):
    made_run = make_run(tmp_path, "processes_score")
    run = next(made_run)
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    for space in ("latent", "token"):
        args = ["export", str(run), "--space", space]
        one, two = tmp_path / "one" / space, tmp_path / "two" / space
        finish(one, launch(one, "lam_jax", [*args[:2], str(one), *args[2:]], devices=1, processes=1))
        finish(two, launch(two, "lam_jax", [*args[:2], str(two), *args[2:], "--mesh", "1", "2", "2"], **TWO))
        assert contents(one) == contents(two)
    made_run.close()
