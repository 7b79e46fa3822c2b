"""Starts a run on a TPU slice of a Kubernetes cluster that has JobSet installed (GKE).

    python -m experiments.launch.jobset --name first-step --image IMAGE --claim lam-jax \
        --accelerator tpu-v5-lite-podslice --topology 4x4 --dry-run -- lam-jax demo --out runs/pod --mesh 1 16 1

The image holds lam_jax with the extra `tpu`; the claim is a volume that every pod can write (ReadWriteMany). With
--dry-run the manifest and the command that would apply it are printed.
"""

import argparse
import json
import math
import string
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

TEMPLATE = Path(__file__).with_name("jobset_tpu.yaml")
APPLY = ["kubectl", "apply", "-f", "-"]


def manifest(
    name: str,
    image: str,
    claim: str,
    accelerator: str,
    topology: str,
    chips: int,
    restarts: int,
    command: Sequence[str],
) -> str:
    """The filled-in manifest.

    Raises:
        ValueError: the topology is not like 4x4, or its chips do not divide over hosts.
    """
    sizes = topology.split("x")
    if not all(size.isdigit() for size in sizes) or math.prod(map(int, sizes)) % chips:
        raise ValueError(
            f"--topology is {topology!r}, expected sizes like 4x4 whose product {chips} divides (--chips)."
        )
    values = {
        "NAME": name,
        "IMAGE": image,
        "CLAIM": claim,
        "ACCELERATOR": accelerator,
        "TOPOLOGY": topology,
        "CHIPS": chips,
        "HOSTS": math.prod(map(int, sizes)) // chips,
        "RESTARTS": restarts,
        "COMMAND": json.dumps(list(command)),
    }
    return string.Template(TEMPLATE.read_text(encoding="utf-8")).substitute(values)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    cut = given.index("--") if "--" in given else len(given)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for flag in ("name", "image", "claim", "accelerator", "topology"):
        parser.add_argument(f"--{flag}", required=True)
    parser.add_argument("--chips", type=int, default=4, help="of each host")
    parser.add_argument("--restarts", type=int, default=10)
    parser.add_argument("--dry-run", action="store_true", help="print what would be executed")
    options = parser.parse_args(given[:cut])
    command = given[cut + 1 :]
    if not command:
        parser.error("no command: put it after --, for example: -- lam-jax demo --out runs/pod")
    settings = {name: value for name, value in vars(options).items() if name != "dry_run"}
    try:
        text = manifest(command=command, **settings)
    except ValueError as error:
        parser.error(str(error))
    if options.dry_run:
        print(f"# {' '.join(APPLY)}\n{text}", end="")
        return 0
    return subprocess.run(APPLY, input=text, text=True, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
