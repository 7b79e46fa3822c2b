"""Bad rows that are skipped: the same batches and counts in one process and in two."""

import json

import pytest
from PIL import Image

from tests.processes.test_processes import launch


def lines(folder, processes, devices):
    started = launch(folder / f"run{processes}", "tests.processes.skipping", [str(folder), "2x1x1"], devices, processes)
    codes = [process.wait(timeout=600) for process in started]
    logs = [(folder / f"run{processes}_{i}.log").read_text() for i in range(processes)]
    assert not any(codes), logs
    return [[line for line in log.splitlines() if line.startswith("batch")] for log in logs]


@pytest.mark.processes
def test_two_processes_skip_as_one_does(tmp_path):
    rows = []
    for i in range(12):
        Image.new("RGB", (56, 56), (i, 0, 0)).save(tmp_path / f"{i}.png")
        answer = {"role": "assistant", "content": "A lion. " * (i + 1)}
        messages = [{"role": "user", "content": "What is it?"}, answer]
        rows.append(json.dumps({"id": str(i), "image": f"{i}.png", "messages": messages}))
    (tmp_path / "rows.jsonl").write_text("\n".join(rows))
    (tmp_path / "2.png").write_bytes(b"junk")
    (tmp_path / "5.png").unlink()
    (one,) = lines(tmp_path, 1, 2)
    first, second = lines(tmp_path, 2, 1)
    assert one == first == second
    assert len(one) == 6
    counted = [int(line.split("'skipped_rows': ")[1].split(",")[0]) for line in one]
    assert sum(counted) >= 3  # two epochs of the 11 rows that are trained on
    files = [tmp_path / f"skipped_rows{name}.jsonl" for name in ("", ".1")]
    listed = [json.loads(line) for file in files for line in file.read_text().splitlines()]
    assert {row["row"] for row in listed} == {2, 5}
