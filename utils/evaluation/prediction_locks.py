"""Who writes to a folder of predictions: the processes of one evaluation, each its own part.

Part p of n is locked as long as its process runs. What makes the folder that of one evaluation,
`run.json`, is compared and written under a second lock, which is held for a moment only.
"""

from __future__ import annotations

from pathlib import Path

from utils.errors import InputError
from utils.process.run_lock import LOCK_FILE, RunLock, holder_of

CHOOSE = "give another --vis_save_path"


def part_lock(folder: str | Path, process: int, world: int) -> RunLock:
    """The lock of the predictions of process `process` of `world`."""
    part = "" if world == 1 else f"part {process} of {world} of "
    return RunLock(
        Path(folder) / f"predictions_{process}_of_{world}.lock",
        f"{part}the predictions folder {folder}",
        CHOOSE,
    )


def start_lock(folder: str | Path) -> RunLock:
    """One process at a time, each after the other, finds out whether it may write here."""
    what = f"the predictions folder {folder}"
    return RunLock(Path(folder) / LOCK_FILE, what, CHOOSE, wait=True)


def writers(folder: str | Path, own: RunLock | None = None) -> list[str]:
    """The processes that write to a folder now, but for the one that holds `own`."""
    paths = sorted(Path(folder).glob("predictions_*_of_*.lock"))
    holders = [holder_of(path) for path in paths if own is None or path != own.path]
    return [holder for holder in holders if holder is not None]


def refuse_other_writers(folder: str | Path, own: RunLock) -> None:
    """See that nobody else writes before everything in the folder is deleted.

    Raises:
        InputError: somebody does.
    """
    if others := writers(folder, own):
        raise InputError(
            f"the predictions folder {folder} is in use by {' and '.join(others)}; wait for it or "
            f"end it, or {CHOOSE}: --no_resume deletes what is there"
        )
