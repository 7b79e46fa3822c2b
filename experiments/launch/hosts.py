"""Runs a command on every host of a TPU pod (or of any cluster without a scheduler) over plain ssh.

    python -m experiments.launch.hosts --kind tpu --hosts host0 host1 host2 host3 --folder /shared/lam_jax \
        --dry-run -- lam-jax demo --out runs/pod --mesh 1 16 1

Each host needs the same folder at the same place (NFS, Filestore, Lustre or GCS FUSE), with the environment that
`make setup` made in it. Each process runs under a watchdog. Without --dry-run the lines are executed, output is
shown with the host in front, and the exit code is the first that is not 0.
"""

import argparse
import shlex
import subprocess
import sys
import threading
from collections.abc import Sequence

PORT = 8476


def environment(kind: str, hosts: Sequence[str], index: int) -> dict[str, str]:
    """Where the process on host `index` stands; see `lam_jax.parallel.processes`."""
    if kind == "tpu":
        return {"LAM_JAX_PROCESSES": "tpu"}
    return {
        "LAM_JAX_COORDINATOR": f"{hosts[0].rpartition('@')[2]}:{PORT}",
        "LAM_JAX_PROCESSES": str(len(hosts)),
        "LAM_JAX_PROCESS": str(index),
    }


def lines(kind: str, hosts: Sequence[str], folder: str, beats: str, command: Sequence[str]) -> list[list[str]]:
    """The ssh command of each host."""
    out = []
    for index, host in enumerate(hosts):
        settings = [f"{name}={shlex.quote(value)}" for name, value in environment(kind, hosts, index).items()]
        watched = ["lam-jax", "watch", "--folder", beats, "--", *command]
        # exec: a signal to ssh's remote shell is one to the watchdog.
        path = 'PATH="$PWD/.venv/bin:$PATH"'
        remote = f"cd {shlex.quote(folder)} && exec env {path} {' '.join(settings)} {shlex.join(watched)}"
        out.append(["ssh", "-tt", "-o", "BatchMode=yes", host, remote])
    return out


def run(commands: Sequence[Sequence[str]], hosts: Sequence[str]) -> int:
    """Executes all at the same time; the first exit code that is not 0."""
    processes = [
        subprocess.Popen(line, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        for line in commands
    ]

    def show(host: str, process: subprocess.Popen) -> None:
        with process.stdout as output:
            for text in output:
                # One write a line: print writes the line break apart, and other hosts' lines come between.
                sys.stdout.write(f"[{host}] {text.rstrip()}\n")
                sys.stdout.flush()

    readers = [threading.Thread(target=show, args=pair) for pair in zip(hosts, processes, strict=True)]
    for reader in readers:
        reader.start()
    try:
        codes = [process.wait() for process in processes]
    except KeyboardInterrupt:
        for process in processes:
            process.terminate()
        codes = [process.wait() or 130 for process in processes]
    for reader in readers:
        reader.join()
    return next((code for code in codes if code), 0)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    cut = given.index("--") if "--" in given else len(given)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kind", choices=("tpu", "explicit"), default="tpu", help="explicit: hosts with GPUs or CPUs")
    parser.add_argument("--hosts", nargs="+", required=True, help="as ssh takes them; the first coordinates")
    parser.add_argument("--folder", required=True, help="the project's folder, the same on every host")
    parser.add_argument("--beats", default="runs/heartbeats", help="where the watchdogs meet, in that folder")
    parser.add_argument("--dry-run", action="store_true", help="print what would be executed")
    options = parser.parse_args(given[:cut])
    command = given[cut + 1 :]
    if not command:
        parser.error("no command: put it after --, for example: -- lam-jax demo --out runs/pod")
    commands = lines(options.kind, options.hosts, options.folder, options.beats, command)
    if options.dry_run:
        for line in commands:
            print(shlex.join(line))
        return 0
    return run(commands, options.hosts)


if __name__ == "__main__":
    sys.exit(main())
