"""Models on the hub: whether one can be had is asked once, and a dead network is told in seconds.

The libraries that load models try again and again, for a minute and more, and then say little.
"""

from __future__ import annotations

import functools
import re
import threading
from pathlib import Path

from utils.cli.checks import model_config
from utils.errors import InputError, first_line

PATIENCE_S = 5.0


def check_models(model: str, tower: str | None) -> None:
    """See that a model and its CLIP tower can be had, before anything heavy is imported.

    Args:
        model: folder or hub id.
        tower: folder or hub id; None: the one that the model's config.json names.

    Raises:
        InputError: as `check_hub`.
    """
    check_model(model)
    named = tower or find_tower(model_config(model).get("mm_vision_tower") or "", model)
    if named:
        check_tower(named)


def check_model(source: str | Path) -> None:
    """`check_hub` for a READ, SESAME or LLaVA."""
    check_hub(source, "the model", "give a folder with a model, or another OWNER/NAME")


def check_tower(source: str | Path) -> None:
    """`check_hub` for CLIP."""
    check_hub(source, "the CLIP tower", "name a copy of it with --vision_tower FOLDER")


def find_tower(named: str, source: str | Path) -> str:
    """Where the CLIP tower is that a model's config.json names.

    Args:
        named: a path, a hub id, or a folder in or beside the model's.
        source: the model: a folder or hub id.

    Returns:
        a folder in or beside that of the model, on the hub in its repository (downloaded if it is
        not in the cache); the name where there is none.

    Raises:
        InputError: the download failed.
    """
    if not named or Path(named).is_absolute():
        return named
    places = [Path(source) / named, Path(source).parent / named]
    if _is_on_hub(source) and "/" not in named:
        places = [_downloaded(str(source), named)]
    return next((str(place) for place in places if place.is_dir()), named)


def _is_on_hub(source: str | Path) -> bool:
    """Whether a name is no path of this machine and has the form OWNER/NAME."""
    known = re.fullmatch(r"[A-Za-z0-9][\w.-]*/[\w.-]+", str(source))
    return known is not None and not Path(source).exists()


def _downloaded(repo: str, folder: str) -> Path:
    """A folder of a repository on the hub, in the cache; it may be one that is not there."""
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(repo, allow_patterns=f"{folder}/*")) / folder
    except Exception as error:  # of the HTTP client, which changed its kind
        raise InputError(
            f"cannot load the folder {folder} of {repo}, its CLIP tower ({first_line(error)}): "
            "name a copy of it with --vision_tower FOLDER"
        ) from error


def check_hub(source: str | Path, what: str, remedy: str) -> None:
    """See that a hub id can be loaded; a path is left to whoever opens it.

    A model that lies in the hub's cache is used from there when the hub cannot be reached.

    Args:
        source: folder or hub id OWNER/NAME.
        what: it should be, such as "the CLIP tower".
        remedy: what to do if it cannot be had.

    Raises:
        InputError: there is no such model, or the hub cannot be reached and the cache lacks it.
    """
    name = str(source)
    if not _is_on_hub(name):
        return
    from huggingface_hub import constants, try_to_load_from_cache
    from huggingface_hub.errors import RepositoryNotFoundError

    error = OSError("HF_HUB_OFFLINE is set") if constants.HF_HUB_OFFLINE else _ask(name)
    if error is None:
        return
    if isinstance(error, RepositoryNotFoundError):
        raise InputError(
            f"{what} {name!r} is no folder here and no public model on the hub: {remedy}"
        ) from error
    if isinstance(try_to_load_from_cache(name, "config.json"), str):
        constants.HF_HUB_OFFLINE = True
        return
    raise InputError(
        f"{what} {name!r} is no folder here, and the model hub cannot be reached "
        f"({first_line(error)}): {remedy}"
    ) from error


@functools.cache
def _ask(name: str) -> Exception | None:
    """None if the hub has the model, else what went wrong."""
    from huggingface_hub import HfApi

    outcomes: list[Exception | None] = []

    def ask() -> None:
        try:
            HfApi().model_info(name, timeout=PATIENCE_S)
            outcomes.append(None)
        except Exception as error:  # noqa: BLE001  (of the HTTP client, which changed its kind)
            outcomes.append(error)

    # In a thread: looking up the hub's address heeds no time limit.
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(PATIENCE_S)
    return outcomes[0] if outcomes else TimeoutError(f"no answer in {PATIENCE_S:.0f} s")
