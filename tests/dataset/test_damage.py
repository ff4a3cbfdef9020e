"""2,000 damaged annotation files and images: each gives samples, or an error that names a file.

Never another exception, a hang, or a mask of another size than its image.
"""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.dataset.damage_world import TARGETS, Target, write_world
from utils.errors import InputError
from utils.protocol.batch import EvalItem, Sample

SECONDS = 5
"""Of computing that one damaged file may take."""


class Hang(BaseException):
    """Raised by the alarm; no loader catches it."""


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_world(tmp_path_factory.mktemp("world"))


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch):
    """Indexes are made anew for every damage; that they outlive a power cut is not the question."""
    monkeypatch.setattr("os.fsync", lambda file: None)


@pytest.fixture
def alarm():
    """Sets an alarm on computing time; pytest's own timeout uses the one on the wall clock."""

    def ring(number, frame):
        raise Hang(f"more than {SECONDS} s")

    before = signal.signal(signal.SIGVTALRM, ring)
    yield lambda seconds: signal.setitimer(signal.ITIMER_VIRTUAL, seconds)
    signal.setitimer(signal.ITIMER_VIRTUAL, 0)
    signal.signal(signal.SIGVTALRM, before)


def check(result: Any) -> None:
    """A sample, an evaluation item or texts, all of the promised form."""
    if isinstance(result, Sample):
        _check_image(result.image)
        assert result.masks.dtype == np.uint8
        assert result.masks.shape == (sum(result.exists), *result.image.shape[:2])
        assert set(np.unique(result.masks)) <= {0, 1}
        assert len(result.conversations) == len(result.exists) == len(result.questions)
        texts = [*result.conversations, *result.questions, result.kind]
        for text, exists in zip(result.conversations, result.exists, strict=True):
            assert text.count("[SEG]") == exists and text.count("<image>") == 1, text
    elif isinstance(result, EvalItem):
        _check_image(result.image)
        for question in result.questions:
            assert question.truth.dtype == np.uint8
            assert question.truth.shape == result.image.shape[:2]
            assert set(np.unique(question.truth)) <= {0, 1, 255}
            assert "<image>" not in question.text and "[SEG]" not in question.text
        texts = [q.text + q.kind + q.answer_hint for q in result.questions]
    else:
        texts = result
    for text in texts:
        text.encode("utf-8")


def _check_image(image: np.ndarray) -> None:
    assert image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3 and image.size


def outcome(target: Target, root: Path) -> str:
    """ "sample" or "error"; raises what is neither."""
    try:
        for result in target.read(root):
            check(result)
    except InputError as error:
        assert Path(target.file).name in str(error) or str(root) in str(error), str(error)
        return "error"
    return "sample"


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_a_damaged_file_gives_samples_or_an_error_that_names_it(target, world, alarm):
    path = world / target.file
    intact = path.read_bytes()
    assert outcome(target, world) == "sample"
    seen = {"sample": 0, "error": 0}
    try:
        for seed in range(target.cases):
            damaged = target.damage(intact, np.random.default_rng(seed))
            path.write_bytes(damaged)
            alarm(SECONDS)
            try:
                seen[outcome(target, world)] += 1
            except (Exception, Hang) as error:
                raise AssertionError(f"{target.name}, seed {seed}: {error!r}") from error
            alarm(0)
    finally:
        path.write_bytes(intact)
    assert seen["error"] > target.cases // 20


def test_there_are_enough_of_them():
    assert sum(target.cases for target in TARGETS) >= 2000
