"""Models on the hub: whether one can be had is asked once, and a dead network is told in seconds.

The libraries that load models try again and again, for a minute and more, and then say little.
"""

from __future__ import annotations

import functools
import re
import threading
from pathlib import Path

from utils.cli.checks import model_config
from utils.errors import InputError

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


def find_tower(named: str, folder: str | Path) -> str:
    """The CLIP folder of that name in or beside a checkpoint folder; without one, the name."""
    if not named or Path(named).is_absolute():
        return named
    places = [Path(folder) / named, Path(folder).parent / named]
    return next((str(place) for place in places if place.is_dir()), named)


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
    if Path(name).exists() or not re.fullmatch(r"[A-Za-z0-9][\w.-]*/[\w.-]+", name):
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
    reason = (str(error) or type(error).__name__).splitlines()[0]
    raise InputError(
        f"{what} {name!r} is no folder here, and the model hub cannot be reached ({reason}): "
        f"{remedy}"
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
