"""A model folder goes to the hub; if it cannot, it stays and the way to try again is told."""

from __future__ import annotations

import shlex
from pathlib import Path

from utils.cli.reader_flags import UploadFlags
from utils.errors import InputError
from utils.process.interrupts import tell_interrupted

SUPERSEDED = "*.safetensors*"
"""Weights of an older upload that this one does not replace are deleted: they would be loaded."""


def upload_if_asked(folder: Path, options: UploadFlags) -> int:
    """Upload what was merged if `--push_to_hub` says so; returns the exit code.

    Raises:
        InputError: as `upload`.
    """
    repo = options.push_to_hub
    if repo is None:
        return 0
    print(f"uploading {folder} to {repo}", flush=True)
    try:
        address = upload(folder, repo, options.private)
    except KeyboardInterrupt:
        return tell_interrupted(by_hand(folder, repo, options.private))
    print(f"uploaded: {address}")
    return 0


def by_hand(folder: Path, repo: str, private: bool) -> str:
    """What is kept and the command that uploads it later, in words."""
    words = ["hf", "upload", repo, str(folder), ".", "--delete", SUPERSEDED]
    command = shlex.join(words + ["--private"] * private)
    return f"the merged model {folder} is complete and stays; upload it later with: {command}"


def upload(folder: Path, repo: str, private: bool) -> str:
    """Make the repository if there is none, and put every file of the folder into it.

    Args:
        repo: hub id OWNER/NAME.
        private: a repository that is made is private; one that is there has to be.

    Returns:
        the address of the repository.

    Raises:
        InputError: no token, no connection, no permission, or the hub refuses; the folder stays.
    """
    from huggingface_hub import HfApi, get_token

    kept = by_hand(folder, repo, private)
    if get_token() is None:
        raise InputError(
            f"--push_to_hub={repo} needs a token that may write, and there is none: log in with "
            f"`hf auth login`, or set HF_TOKEN; {kept}"
        )
    api = HfApi()
    try:
        made = api.create_repo(repo, private=private or None, exist_ok=True)
        is_public = private and not api.model_info(repo).private
        if not is_public:
            api.upload_folder(
                repo_id=repo,
                folder_path=folder,
                commit_message="Upload a merged READ model",
                delete_patterns=SUPERSEDED,
            )
    except Exception as error:  # of the HTTP client, which changed its kind
        raise InputError(f"--push_to_hub={repo}: {_reason(error)}; {kept}") from error
    if is_public:
        raise InputError(
            f"--push_to_hub={repo} is there and public, and --private was given: nothing was "
            f"uploaded; give another name, or make it private on the hub first; {kept}"
        )
    return str(made)


def _reason(error: Exception) -> str:
    """What went wrong, and the remedy."""
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    said = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, OfflineModeIsEnabled):
        return "HF_HUB_OFFLINE is set, so nothing can be uploaded: unset it"
    if isinstance(error, ValueError):
        return f"the hub refused ({said})"
    if not isinstance(error, HfHubHTTPError):
        return f"the hub cannot be reached or the connection broke ({said}): see to the network"
    status = error.response.status_code
    if status == 401:
        return f"the hub does not accept the token: log in with `hf auth login` ({said})"
    if status == 403:
        return (
            "the token may not write there: take one with the permission to write, or another "
            f"OWNER/NAME ({said})"
        )
    return f"the hub refused ({said})"
