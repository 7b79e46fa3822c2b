"""The command line: help that reads well, messages and exit codes."""

import errno
import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

from lam_jax import __version__, cli
from lam_jax.cli import COMMANDS, exit_code, is_expected, main
from lam_jax.errors import InterruptedRunError, NoSpaceError, OtherConfigurationError
from lam_jax.hosts import start
from lam_jax.runs.watching import Watching

ROOT = Path(__file__).parents[2]


def call(args, capsys):
    """(exit code, stdout, stderr) with the text joined over line breaks and boxes."""
    try:
        code = main(args)
    except SystemExit as stop:  # tyro's way out of --help and of bad flags
        code = stop.code
    out, err = capsys.readouterr()
    return code, *(" ".join(text.replace("│", " ").split()) for text in (out, err))


def test_help_names_every_command_with_its_first_sentence(capsys):
    code, out, _ = call(["--help"], capsys)
    assert code == 0
    for name, command in COMMANDS.items():
        assert name in out
        assert command.__doc__.split("\n")[0].rstrip(".") in out


def test_help_of_a_command_explains_flags_and_defaults(capsys):
    code, out, _ = call(["demo", "--help"], capsys)
    assert code == 0
    for part in ("--seed", "--out", "--mesh", "--algorithm", "--task", "runs/demo", "two runs with one seed"):
        assert part in out
    for flag in ("--samples-every", "--shown", "--dump-rollouts", "--log", "--validate-every"):
        assert flag in out


def test_flags_of_watching_reach_the_run(monkeypatch, capsys):
    found = {}
    monkeypatch.setattr("lam_jax.hosts.start.start_process", lambda: None)
    monkeypatch.setattr(
        "lam_jax.pipeline.run_recipe", lambda recipe, out, **kwargs: found.update(kwargs, recipe=recipe)
    )
    flags = ["--samples-every", "3", "--shown", "2", "--dump-rollouts", "--log", "wandb", "mlflow"]
    assert call(["demo", *flags, "--validate-every", "4"], capsys)[0] == 0
    assert found["watching"] == Watching(3, 2, True, ("wandb", "mlflow"))
    assert found["recipe"].rl.validate_every == 4
    assert call(["demo", "--log"], capsys)[0] == 0
    assert found["watching"] == Watching(sinks=())


@pytest.mark.parametrize(
    ("args", "part"),
    [
        (["demo", "--sed", "1"], "--sed"),
        (["demo", "--seed", "one"], "--seed"),
        (["demo", "--seed", "-3"], "--seed: found -3, expected a number that is not negative"),
        (["demo", "--algorithm", "ppo"], "ppo"),
        (["demo", "--task", "help", "help"], "expected one or more different tasks"),
        (["demo", "--samples-every", "-1"], "--samples-every: found -1, expected at least 0"),
        (["demo", "--shown", "0"], "--shown: found 0, expected at least 1"),
        (["demo", "--log", "wandb", "wandb"], "--log: found wandb wandb, expected different sinks"),
        (["demo", "--log", "comet"], "comet"),
        (["demo", "--validate-every", "-2"], "--validate-every: found -2, expected a number that is not negative"),
        (["convert", "a", "b", "--preset", "tiny", "--config", "c"], "--preset and --config: found both"),
        (["demo", "--mesh", "0", "1", "1"], "--mesh: found 0 1 1, expected three sizes of 1 or more"),
        (["demo", "--save-every", "-3"], "--save-every: found -3, expected a number of updates, or 0"),
        (["watch"], "watch: found no command, expected one after --, for example: -- lam-jax demo."),
        (["watch", "--patience", "0", "--", "true"], "--patience: found 0.0, expected seconds above 0"),
        (["dmeo"], "dmeo"),
    ],
)
def test_bad_flags_end_with_code_2_and_are_named(args, part, capsys):
    code, out, err = call(args, capsys)
    assert code == 2
    assert part in out + err


@pytest.mark.parametrize(
    ("flags", "part"),
    [
        (["--mesh", "4", "4", "4"], "Mesh {'data': 4, 'fsdp': 4, 'tensor': 4} needs 64 devices, but there are "),
        (["--profile", "nope"], "profile: found 'nope', expected a phase that trains: stage1_inverse, "),
        (
            ["--task", "help", "--profile", "scores_rl_token_help"],
            "sft_latent_help, rl_latent_help, rl_hybrid_help, sft_token_help, rl_token_help.",
        ),
    ],
)
def test_flags_that_cannot_be_followed_end_before_any_work(flags, part, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(start, "start_process", lambda: None)
    code, _, err = call(["demo", "--out", str(tmp_path / "run"), *flags], capsys)
    assert code == 2
    assert part in err
    assert "Traceback" not in err
    assert not (tmp_path / "run").exists()


def test_a_folder_that_cannot_be_written_is_a_message_with_a_code_of_its_own(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(start, "start_process", lambda: None)
    (tmp_path / "file").write_text("")
    code, _, err = call(["demo", "--out", str(tmp_path / "file" / "run")], capsys)
    assert code == 16
    assert "file/run: cannot be used as an output folder: Not a directory" in err
    assert "Traceback" not in err


def test_a_refused_file_is_named_with_what_to_do(tmp_path, monkeypatch, capsys):
    def refuse(self, *args, **kwargs):
        raise PermissionError(errno.EACCES, "Permission denied", str(self))

    (tmp_path / "results.json").write_text("{}")
    monkeypatch.setattr(Path, "mkdir", refuse)
    code, _, err = call(["report", str(tmp_path)], capsys)
    assert code == 1
    assert err == (
        f"lam-jax: {tmp_path}/plots: Permission denied. Give this user the right to it, or name another file or folder."
    )


def test_interruptions_say_how_to_go_on_and_end_with_130(monkeypatch, capsys):
    for error, words in (
        (KeyboardInterrupt(), "lam-jax: interrupted"),
        (KeyboardInterrupt("Ended at once. Run again."), "lam-jax: Ended at once. Run again."),
        (InterruptedRunError("Stopped by Ctrl-C in phase x, saved."), "lam-jax: Stopped by Ctrl-C in phase x, saved."),
    ):

        def stop(self, error=error):
            raise error

        monkeypatch.setattr(cli.Presets, "run", stop)
        assert call(["presets"], capsys)[::2] == (130, words)


def test_our_errors_are_one_message_with_their_code(monkeypatch, capsys):
    def fail(self):
        raise OtherConfigurationError("runs/demo belongs to another configuration [seed]")

    monkeypatch.setattr(cli.Presets, "run", fail)
    code, _, err = call(["presets"], capsys)
    assert code == 3
    assert err == "lam-jax: runs/demo belongs to another configuration [seed]"


def test_other_errors_keep_their_stack_trace(monkeypatch, capsys):
    monkeypatch.setattr(cli.Presets, "run", lambda self: 1 / 0)
    code, _, err = call(["presets"], capsys)
    assert code == 1
    assert "Traceback" in err
    assert "division by zero" in err


def test_missing_folder_is_a_message_and_not_a_trace(tmp_path, capsys):
    code, _, err = call(["report", str(tmp_path / "nowhere")], capsys)
    assert code == 1
    assert "nowhere" in err
    assert "Traceback" not in err


def test_full_disk_and_interruption_have_their_codes():
    assert exit_code(OSError(errno.ENOSPC, "No space left on device")) == NoSpaceError.exit_code
    assert exit_code(KeyboardInterrupt()) == 130
    assert is_expected(KeyboardInterrupt())
    assert not is_expected(ZeroDivisionError())


def test_presets_are_listed_with_their_sizes(capsys):
    code, out, _ = call(["presets"], capsys)
    assert code == 0
    row = out.split("qwen2_5_vl_3b")[1].split("qwen2_5_vl_7b")[0]
    assert "2048" in row
    assert "1,167." in row, "inverse 308 M + policy 617 M + merge 225 M + projectors 17 M"


def test_help_does_not_import_jax_and_the_module_runs():
    script = "import sys, lam_jax.cli; assert 'jax' not in sys.modules and 'flax' not in sys.modules"
    subprocess.run([sys.executable, "-c", script], check=True, cwd=ROOT)
    done = subprocess.run([sys.executable, "-m", "lam_jax", "--version"], capture_output=True, text=True, cwd=ROOT)
    assert (done.returncode, done.stdout.strip()) == (0, f"lam_jax {__version__}")


@pytest.mark.parametrize(
    ("command", "code"),
    [
        (["lam_jax", "train", "own", "--help"], 141),
        (["lam_jax", "presets"], 1),  # rich sees to its own tables
        (["experiments.reproduce", "--list"], 141),
    ],
)
def test_output_that_nobody_reads_ends_a_command_without_a_word(command, code):
    reads, writes = os.pipe()
    os.close(reads)
    with os.fdopen(writes, "w") as out:
        done = subprocess.run([sys.executable, "-m", *command], stdout=out, stderr=subprocess.PIPE, text=True, cwd=ROOT)
    assert (done.returncode, done.stderr) == (code, "")


def test_a_pipe_that_breaks_elsewhere_is_an_error(monkeypatch, capfd):
    def run(self):
        raise BrokenPipeError(32, "Broken pipe of a worker")

    monkeypatch.setattr("lam_jax.cli.presets.Presets.run", run)
    assert main(["presets"]) == 1
    assert "Broken pipe of a worker" in capfd.readouterr().err
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    assert main(["presets"]) == 1
    assert "Broken pipe of a worker" in capfd.readouterr().err
