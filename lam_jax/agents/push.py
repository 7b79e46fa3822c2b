"""An exported agent onto the Hugging Face hub."""

from pathlib import Path

from lam_jax.agents.settings import AgentError


def push(folder: str | Path, repository: str, public: bool = False) -> str:
    """Uploads a folder as a model, which is made if it is not there; returns its address.

    Args:
        folder: an exported agent.
        repository: "owner/name".
        public: whether a new repository can be read by all.

    Raises:
        AgentError: the extra `hub` is missing, or the hub refused; the folder stays as it is.
    """
    try:
        from huggingface_hub import HfApi
    except ImportError as error:
        raise AgentError("Pushing needs the extra `hub`: pip install 'lam_jax[hub]'.") from error
    hub = HfApi(library_name="lam_jax")
    try:
        made = hub.create_repo(repository, private=not public, exist_ok=True)
        hub.upload_folder(repo_id=made.repo_id, folder_path=folder, commit_message="lam-jax export")
    except Exception as error:  # the hub's own, of the network's library, or of the file system
        raise AgentError(
            f"{folder} is complete but could not be pushed to {repository!r} ({type(error).__name__}: {error}). Log "
            f"in with `hf auth login`, then `hf upload {repository} {folder}`."
        ) from error
    return str(made)
