"""The JSON of a benchmark, its table, and one module run as a user runs it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.records import Record, document, environment, write
from benchmarks.statistics import Estimate, Target
from benchmarks.table import markdown
from tests.quick_xla import QUICK_ENVIRONMENT

ROOT = Path(__file__).parent.parent.parent
KEYS = {"name", "value", "unit", "interval", "floor", "repeats", "counted", "target", "note"}
FOUND = Estimate(2.0, 1.5, 2.5, 9)


def record(name="a.b", **changes):
    return Record.measured(name, FOUND, "ratio", **{"target": Target(3.0, "at most")} | changes)


def test_a_document_survives_the_file(tmp_path):
    content = document([record(), Record("c", 7.0, "bytes", counted=True)], environment(preset="mid"))
    write(tmp_path / "new" / "file.json", content)
    read = json.loads((tmp_path / "new" / "file.json").read_text())
    assert [set(r) for r in read["records"]] == [KEYS, KEYS]
    assert read["records"][0] | {"note": ""} == {
        **{"name": "a.b", "value": 2.0, "unit": "ratio", "interval": [1.5, 2.5], "floor": None, "repeats": 9},
        **{"counted": False, "target": {"threshold": 3.0, "side": "at most", "verdict": "met"}, "note": ""},
    }
    assert {"device", "cores", "versions", "commit", "preset"} <= set(read["environment"])
    assert read["environment"]["versions"]["jax"]


@pytest.mark.parametrize(
    ("records", "message"),
    [
        ([record(), record()], "'a.b' occurs twice"),
        ([Record("x", float("nan"), "s")], "expected finite numbers"),
        ([Record("x", 3.0, "s", interval=(1.0, 2.0))], "outside its interval"),
    ],
)
def test_bad_records_are_refused(records, message):
    with pytest.raises(ValueError, match=message):
        document(records, {})


def test_the_readme_table_has_a_row_for_each_record():
    content = document([record(), Record("memory", 3.2e9, "bytes", counted=True)], {})
    lines = list(markdown([json.loads(json.dumps(content))]))
    assert lines[2] == "| `a.b` | 2 | 1.5 to 2.5 |  | at most 3: met |"
    assert lines[3].startswith("| `memory` | 3.2 GB (counted) |")
    assert len({line.count("|") for line in lines}) == 1


def test_a_module_runs_and_writes_the_stable_names(tmp_path):
    """`update` on the smallest preset, in its own process; a recompilation would end it with an error."""
    file = tmp_path / "update.json"
    command = [sys.executable, "-m", "benchmarks.update", "--preset", "tiny", "--json", str(file)]
    done = subprocess.run(
        [*command, "--repeats", "2", "--patience", "0"], cwd=ROOT, env=_environment(), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    read = json.loads(file.read_text())
    names = {r["name"]: r for r in read["records"]}
    for kind in ("latent", "token", "token_matched"):
        found = names[f"update.{kind}.s"]
        assert found["unit"] == "s"
        assert found["repeats"] == 2
        assert 0 < found["floor"] < found["value"]
        assert 0 < names[f"update.{kind}.peak_share"]["value"] < 1
    assert read["environment"]["peaks"]["before"]["bytes_per_s"] > 0
    latent, matched = (names[f"update.{k}.parameters"]["value"] for k in ("latent", "token_matched"))
    assert matched == pytest.approx(latent, rel=0.02)


def _environment():
    """One device."""
    return {**os.environ, **QUICK_ENVIRONMENT, "JAX_PLATFORMS": "cpu"}
