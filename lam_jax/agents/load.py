"""`lam_jax.load`: an agent from whatever kind of folder."""

import logging
from pathlib import Path

from jax.sharding import Mesh

from lam_jax.agents.checkpoints import is_exported, open_converted, open_exported, open_hugging_face
from lam_jax.agents.loaded import LoadedAgent
from lam_jax.agents.run_folder import CONFIG, is_run_folder, open_run_agent
from lam_jax.agents.settings import AgentError, AgentFolder
from lam_jax.formats.agent_folder import MANIFEST
from lam_jax.formats.checkpoint_files import refuse_adapters
from lam_jax.hosts.start import start_process
from lam_jax.models.tokenizer import read_tokenizer
from lam_jax.parallel.processes import whole_mesh
from lam_jax.train.spaces import SPACES

logger = logging.getLogger("lam_jax")


def load(
    path: str | Path,
    *,
    task: str | None = None,
    space: str | None = None,
    mesh: Mesh | tuple[int, int, int] | None = None,
) -> LoadedAgent:
    """An agent that answers, from any of these folders:

    - a run: the agent after the last complete phase of a task in an action space;
    - an agent that `lam-jax export` wrote;
    - a Hugging Face Qwen2.5-VL or Qwen3-VL: in the token space, greedy;
    - a folder that `lam-jax convert` wrote: in the latent space if it has latent modules.

    Args:
        path: the folder.
        task: of a run that has several tasks.
        space: "latent", "hybrid" or "token", of a run that has several, or of a converted folder with latent modules.
        mesh: devices that it lies on, or their sizes data, fsdp and tensor; default: the first device.

    Raises:
        AgentError: no agent, another task or space, or several and none named.
        CheckpointError, DamagedCheckpointError: weights that cannot be read.
    """
    start_process()
    return load_folder(find(path, task, space), mesh)


def find(path: str | Path, task: str | None = None, space: str | None = None) -> AgentFolder:
    """The agent's folder, its settings read and no weights; arguments and errors as of `load`."""
    path = Path(path)
    if not path.is_dir():
        kind = "a file" if path.exists() else "not there"
        raise AgentError(
            f"{path} is {kind}, expected the folder of a run, of an exported agent, of a converted or of a Hugging "
            "Face checkpoint. `hf download NAME --local-dir FOLDER` fetches such a one; a state dict in one file is "
            "converted by `lam-jax convert`."
        )
    if space is not None and space not in SPACES:
        raise AgentError(f"space is {space!r}, expected {', '.join(map(repr, list(SPACES)[:-1]))} or 'token'.")
    if is_exported(path):
        return open_exported(path, task, space)
    if (path / MANIFEST).is_file():
        return open_converted(path, task, space)
    if is_run_folder(path):
        return open_run_agent(path, task, space)
    if (path / CONFIG).is_file():
        return open_hugging_face(path, task, space)
    refuse_adapters(path)
    raise AgentError(
        f"{path} holds none of agent.json (an exported agent), {MANIFEST} (a converted checkpoint) and {CONFIG} (a run "
        "or a Hugging Face checkpoint)."
    )


def load_folder(folder: AgentFolder, mesh: Mesh | tuple[int, int, int] | None = None) -> LoadedAgent:
    """The agent of a folder that `find` found."""
    devices = mesh if isinstance(mesh, Mesh) else whole_mesh(mesh or (1, 1, 1))
    tokenizer = read_tokenizer(folder.files())
    return LoadedAgent(folder.path, folder.settings, folder.read(devices), tokenizer)
