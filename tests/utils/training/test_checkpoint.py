"""Newest and best checkpoint: what a kill at any file operation leaves behind."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
import torch

from utils.errors import InputError
from utils.training.checkpoint import (
    BEST,
    LATEST,
    STATE_FILE,
    CheckpointStore,
    RunState,
    check_space,
    damaged_files,
    free_bytes,
    next_state,
    tag_of,
)

WATCHED = ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "shutil.rmtree")
PAYLOAD = "weights.pt"


def write(store: CheckpointStore, before: RunState | None, step: int, score: float | None):
    """One checkpoint, as the training writes it."""
    state = next_state(before, step, 1, score)
    store.begin(state.tag)
    (store.folder / state.tag / PAYLOAD).write_text(f"weights of step {step}")
    store.flush(state.tag)
    store.complete(state)
    return state


def tags(store: CheckpointStore) -> set[str]:
    return {path.name for path in store.folder.iterdir() if path.is_dir()}


def is_whole(store: CheckpointStore, pointer: str) -> bool:
    state = store.load(pointer)
    if state is None:
        return False
    return (store.folder / state.tag / PAYLOAD).read_text() == f"weights of step {state.step}"


def test_newest_and_best_are_kept_and_nothing_else(tmp_path):
    store = CheckpointStore(tmp_path / "ckpt_model")
    assert store.load() is None
    state = None
    for step, score in [(10, 0.3), (20, 0.5), (30, 0.4), (40, 0.2)]:
        state = write(store, state, step, score)
    assert tags(store) == {tag_of(20), tag_of(40)}
    newest, best = store.load(LATEST), store.load(BEST)
    assert (newest.step, newest.score, newest.best_score) == (40, 0.2, 0.5)
    assert (best.step, best.score) == (20, 0.5)


def test_the_newest_k_and_the_best_are_kept(tmp_path):
    store = CheckpointStore(tmp_path / "ckpt_model", keep=3)
    state = None
    for step, score in [(10, 0.3), (20, 0.5), (30, 0.4), (40, 0.2), (50, 0.1)]:
        state = write(store, state, step, score)
    assert tags(store) == {tag_of(step) for step in (20, 30, 40, 50)}
    begun = tag_of(60)
    store.begin(begun)
    (store.folder / tag_of(30) / STATE_FILE).unlink()
    store.repair()
    assert tags(store) == {tag_of(step) for step in (20, 40, 50)}
    assert CheckpointStore(store.folder).repair() == state
    assert tags(store) == {tag_of(20), tag_of(50)}


def test_a_score_that_comes_later(tmp_path):
    """A checkpoint is saved, then validated: it becomes the best one only then."""
    store = CheckpointStore(tmp_path / "ckpt_model")
    first = write(store, None, 10, 0.5)
    saved = write(store, first, 20, None)
    assert store.load(BEST) == first and store.load(LATEST) == saved
    scored = next_state(saved, 20, 1, 0.6)
    store.complete(scored)
    assert store.load(BEST) == store.load(LATEST) == scored
    assert (scored.score, scored.best_score, scored.best_tag) == (0.6, 0.6, tag_of(20))
    assert tags(store) == {tag_of(20)} and is_whole(store, LATEST)


def test_a_checkpoint_without_score_is_best_only_until_one_has_a_score():
    first = next_state(None, 1, 1, None)
    assert first.best_tag == tag_of(1)
    second = next_state(first, 2, 1, None)
    assert second.best_tag == tag_of(2)
    third = next_state(second, 3, 1, 0.0)
    assert (third.best_tag, third.best_score) == (tag_of(3), 0.0)
    assert next_state(third, 4, 1, None).best_tag == tag_of(3)
    assert next_state(third, 4, 1, 0.0).best_tag == tag_of(3)
    assert next_state(third, 4, 1, 0.1).best_tag == tag_of(4)


def in_child_killed_at(operation: int, folder: Path, work) -> bool:
    """Run `work` in a forked process that dies at its n-th file operation below `folder`.

    Returns whether it died; no clean-up code of Python runs then, as with kill -9.
    """
    child = os.fork()
    if child == 0:
        seen = 0

        def hook(event: str, arguments: tuple) -> None:
            nonlocal seen
            if event in WATCHED and str(arguments[0]).startswith(str(folder)):
                seen += 1
                if seen == operation:
                    os._exit(9)

        sys.addaudithook(hook)
        code = 1
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code in (0, 9)
    return code == 9


@pytest.mark.slow
@pytest.mark.parametrize("score", [0.9, 0.1, None])
def test_killed_at_any_file_operation(tmp_path, score):
    """Old or new: both pointers stay on whole checkpoints, and the best score survives."""
    operation, died = 0, True
    while died:
        operation += 1
        store = CheckpointStore(tmp_path / str(operation) / "ckpt_model")
        state = write(store, write(store, None, 10, 0.5), 20, 0.3)
        died = in_child_killed_at(
            operation, tmp_path, lambda store=store, state=state: write(store, state, 30, score)
        )
        assert is_whole(store, LATEST) and is_whole(store, BEST)

        resumed = store.repair()
        best = store.load(BEST)
        assert resumed.step in ((20, 30) if died else (30,))
        assert is_whole(store, LATEST) and is_whole(store, BEST)
        assert best.score == resumed.best_score
        assert best.score >= 0.5
        assert tags(store) == {resumed.tag, best.tag}

        again = write(store, resumed, resumed.step + 10, 0.95)
        assert is_whole(store, LATEST) and store.load(BEST).step == again.step
    assert operation > 10


@pytest.mark.slow
def test_killed_at_any_operation_of_the_first_checkpoint(tmp_path):
    operation, died = 0, True
    while died:
        operation += 1
        store = CheckpointStore(tmp_path / str(operation) / "ckpt_model")
        store.folder.mkdir(parents=True)
        died = in_child_killed_at(
            operation, tmp_path, lambda store=store: write(store, None, 10, 0.5)
        )
        resumed = store.repair()
        assert resumed is None or is_whole(store, LATEST)
        write(store, resumed, 20, 0.6)
        assert store.load(BEST).step == 20


def test_nothing_in_use_is_overwritten(tmp_path):
    store = CheckpointStore(tmp_path)
    write(store, None, 10, 0.5)
    with pytest.raises(InputError, match="nothing is overwritten"):
        store.begin(tag_of(10))


def test_other_folders_are_left_alone(tmp_path):
    store = CheckpointStore(tmp_path)
    (tmp_path / "my_copy").mkdir()
    state = write(store, None, 10, 0.5)
    write(store, write(store, state, 20, 0.6), 30, 0.7)
    assert tags(store) == {"my_copy", tag_of(30)}


def test_a_damaged_pointer_says_what_to_do(tmp_path):
    store = CheckpointStore(tmp_path)
    write(store, None, 10, 0.5)
    (tmp_path / LATEST).write_text("step_99999999")
    with pytest.raises(
        InputError, match=f"named by {tmp_path / LATEST}, .*--resume {tmp_path / tag_of(10)}"
    ):
        store.load()
    (tmp_path / LATEST).write_text(tag_of(10))
    (tmp_path / tag_of(10) / STATE_FILE).write_text("{}")
    with pytest.raises(InputError, match=STATE_FILE):
        store.load()


def test_going_back_drops_what_came_after(tmp_path):
    store = CheckpointStore(tmp_path, keep=3)
    state = write(store, None, 10, 0.5)
    older = write(store, state, 20, 0.2)
    write(store, older, 30, 0.7)
    assert store.go_back(store.load(tag_of(20))) == older
    assert (store.load(LATEST), store.load(BEST)) == (older, state)
    assert tags(store) == {tag_of(10), tag_of(20)}


def test_going_back_to_where_the_best_one_is_gone(tmp_path):
    store = CheckpointStore(tmp_path, keep=2)
    older = write(store, write(store, None, 10, 0.5), 20, 0.2)
    write(store, older, 30, 0.7)
    assert tags(store) == {tag_of(20), tag_of(30)}
    state = store.go_back(store.load(tag_of(20)))
    assert (state.best_tag, state.best_score) == (tag_of(20), 0.2)
    assert store.load(LATEST) == store.load(BEST) == state and tags(store) == {tag_of(20)}


def test_damaged_files_are_found_by_their_checksums(tmp_path):
    for name in ("whole", "cut", "changed", "empty"):
        torch.save({"weights": torch.arange(100_000.0)}, tmp_path / f"{name}.pt")
    content = (tmp_path / "whole.pt").read_bytes()
    middle = len(content) // 2
    changed = content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]
    (tmp_path / "changed.pt").write_bytes(changed)
    (tmp_path / "cut.pt").write_bytes(content[:middle])
    (tmp_path / "empty.pt").write_bytes(b"")
    assert damaged_files(tmp_path) == ["changed.pt", "cut.pt", "empty.pt"]


def test_space_is_counted_for_each_disk(tmp_path):
    free = free_bytes(tmp_path)
    check_space({tmp_path / "a" / "b": 1000, tmp_path / "c": 1000}, "free some")
    with pytest.raises(InputError, match="GB are needed; free some"):
        check_space(
            {tmp_path / "a" / "b": 2 * free // 3, tmp_path / "c": 2 * free // 3}, "free some"
        )


def test_free_bytes_of_a_folder_that_is_not_there_yet(tmp_path):
    assert free_bytes(tmp_path / "a" / "b") > 0
