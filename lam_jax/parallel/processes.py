"""Start of a program that runs as several processes, one a host (or one a GPU), by `jax.distributed`.

Where a process stands is read from, in this order:

| source | what it takes |
|---|---|
| explicit | `LAM_JAX_COORDINATOR` (host:port), `LAM_JAX_PROCESSES`, `LAM_JAX_PROCESS` |
| Kubernetes (indexed Job, JobSet) | the first two of these, and the JOB_COMPLETION_INDEX of the pod |
| SLURM | what `srun` sets: SLURM_PROCID, SLURM_NTASKS, the first host of SLURM_STEP_NODELIST |
| TPU pod | what the TPU machine's metadata say (`LAM_JAX_PROCESSES=tpu` asks for it) |

Without any of these the program is one process.
"""

import dataclasses
import functools
import itertools
import os
import re
from collections.abc import Mapping

import jax
import numpy as np
from jax.sharding import Mesh, PartitionSpec

from lam_jax.parallel.mesh import make_mesh
from lam_jax.parallel.multihost import gather

ADDRESS, COUNT, INDEX = "LAM_JAX_COORDINATOR", "LAM_JAX_PROCESSES", "LAM_JAX_PROCESS"
# Seconds within which every process has to be there, and after which a silent one counts as dead.
START_SECONDS = 300
HEARTBEAT_SECONDS = 100
SHUTDOWN_SECONDS = 60


class StartUpError(Exception):
    """The processes could not be started together."""

    exit_code = 14


@dataclasses.dataclass(frozen=True)
class Place:
    """Where a process stands among those of the run.

    Attributes:
        source: what says so: "explicit", "kubernetes", "slurm" or "tpu".
        coordinator: address of process 0, host:port; None: jax finds it.
        count, index: number of processes and this one's; None: jax finds them.
        local_devices: of this host that belong to this process; None: all.
    """

    source: str
    coordinator: str | None = None
    count: int | None = None
    index: int | None = None
    local_devices: tuple[int, ...] | None = None

    def __post_init__(self):
        if self.count is not None and self.index is not None and not 0 <= self.index < self.count:
            raise StartUpError(
                f"Process index {self.index} of {self.count} processes ({self.source}): expected 0 to "
                f"{self.count - 1}. Set {INDEX} and {COUNT} to fit."
            )
        if self.coordinator is not None and not re.fullmatch(r"\S+:\d+", self.coordinator):
            raise StartUpError(f"{ADDRESS} is {self.coordinator!r}, expected host:port, for example host0:8476.")

    def __str__(self) -> str:
        if self.source == "tpu":
            return "one of a TPU pod's processes, found by jax"
        return f"process {self.index} of {self.count} ({self.source}), coordinator {self.coordinator}"


def find_place(environment: Mapping[str, str] = os.environ) -> Place | None:
    """Where the environment puts this process; None for a program of one process.

    Raises:
        StartUpError: the environment is incomplete or contradicts itself.
    """
    given = {name: environment[name] for name in (ADDRESS, COUNT, INDEX) if environment.get(name)}
    if given.get(COUNT) == "tpu":
        return Place("tpu")
    if "JOB_COMPLETION_INDEX" in environment and {ADDRESS, COUNT} <= set(given) and INDEX not in given:
        numbers = _number(given, COUNT), _number(environment, "JOB_COMPLETION_INDEX")
        return Place("kubernetes", given[ADDRESS], *numbers)
    if given:
        missing = [name for name in (ADDRESS, COUNT, INDEX) if name not in given]
        if missing:
            raise StartUpError(f"Found {', '.join(given)} but not {', '.join(missing)}: set all three or none.")
        return Place("explicit", given[ADDRESS], _number(given, COUNT), _number(given, INDEX))
    if "SLURM_STEP_NODELIST" in environment and "SLURM_PROCID" in environment:
        count = _number(environment, "SLURM_NTASKS")
        return None if count == 1 else _slurm(environment, count)
    return None


def _number(environment: Mapping[str, str], name: str) -> int:
    try:
        return int(environment[name])
    except (KeyError, ValueError):
        raise StartUpError(f"{name} is {environment.get(name)!r}, expected a number.") from None


def _slurm(environment: Mapping[str, str], count: int) -> Place:
    # The first of "node[001-004,7],other": a prefix and, in brackets, the first number.
    first = re.match(r"([^,\[]+)(?:\[([^,\-\]]+))?", environment["SLURM_STEP_NODELIST"])
    if first is None:
        raise StartUpError(f"SLURM_STEP_NODELIST is {environment['SLURM_STEP_NODELIST']!r}, expected host names.")
    port = 61440 + _number(environment, "SLURM_JOB_ID") % 4096  # two jobs on one host must not meet
    coordinator = f"{first[1]}{first[2] or ''}:{port}"
    # One task a GPU: this one's. One task a node: all of them.
    per_node = environment.get("SLURM_NTASKS_PER_NODE", "1") != "1"
    local = (_number(environment, "SLURM_LOCALID"),) if per_node else None
    return Place("slurm", coordinator, count, _number(environment, "SLURM_PROCID"), local)


def start(environment: Mapping[str, str] = os.environ) -> Place | None:
    """Joins the other processes of the run, before jax is used; does nothing for a program of one process.

    Raises:
        StartUpError: not all processes came within five minutes, or the environment makes no sense.
    """
    place = find_place(environment)
    if place is None:
        return None
    # What CPU devices of different processes talk through; accelerators have networks of their own.
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    # How long the first process to list its CPU devices waits for the others: not less than for their start.
    jax.config.update("jax_cpu_get_local_topology_timeout_minutes", START_SECONDS // 60)
    jax.config.update("jax_cpu_get_global_topology_timeout_minutes", START_SECONDS // 60 + 1)
    try:
        jax.distributed.initialize(
            place.coordinator,
            place.count,
            place.index,
            local_device_ids=place.local_devices,
            initialization_timeout=START_SECONDS,
            heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
            # One that fails alone ends the others after this time, which wait for it in some collective.
            shutdown_timeout_seconds=SHUTDOWN_SECONDS,
        )
    except Exception as error:
        raise StartUpError(
            f"Could not join the run as {place}: {str(error).splitlines()[0]}. Check that the coordinator's host and "
            "port can be reached from here and that every process was started with the same number of processes."
        ) from error
    if jax.default_backend() == "cpu":
        # Seen: programs read back from the compilation cache start collectives in another order on each process, and
        # gloo, which takes them as they come, ends the run ("Received data size doesn't match expected size").
        jax.config.update("jax_enable_compilation_cache", False)
    return dataclasses.replace(place, count=jax.process_count(), index=jax.process_index())


def whole_mesh(shape: tuple[int, int, int]) -> Mesh:
    """A mesh of `shape`; with several processes it must hold the devices of all of them.

    Raises:
        StartUpError: a process would be left without work.
        BadSettingError: not three sizes, or there are not so many devices.
    """
    mesh = make_mesh(shape)
    if jax.process_count() > 1 and mesh.size != jax.device_count():
        raise StartUpError(
            f"The mesh {dict(mesh.shape)} has {mesh.size} of the {jax.device_count()} devices of {jax.process_count()} "
            f"processes: choose sizes (data, fsdp, tensor) whose product is {jax.device_count()}."
        )
    if jax.process_count() > 1 and jax.default_backend() == "cpu":
        _connect(mesh)
    return mesh


def _connect(mesh: Mesh) -> None:
    """Connects the devices of every mesh axis, and of several axes together, while the processes are side by side.

    Gloo gives a group of devices 30 s from the first program that needs it, which no flag changes. After compiling a
    large program on a busy machine processes may be further apart; connected devices wait for longer.
    """
    gather(np.zeros(1, np.int32))  # also connects the processes for `agree`
    groups = [
        axes for count in range(1, mesh.devices.ndim + 1) for axes in itertools.combinations(mesh.axis_names, count)
    ]

    @jax.jit
    @functools.partial(jax.shard_map, mesh=mesh, in_specs=(), out_specs=PartitionSpec())
    def meet():
        return [jax.lax.psum(jax.lax.axis_index(axes), axes) for axes in groups]

    jax.block_until_ready(meet())
