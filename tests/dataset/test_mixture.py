"""Several training sets as one: rates, independence, workers, resumption."""

from __future__ import annotations

import numpy as np
import pytest

from dataset.mixture import Mixture
from dataset.reason_seg import ReasonSegTrain
from dataset.sampling import SamplingOptions
from dataset.sem_seg.sampling import SemSegTrain
from dataset.vqa import VqaTrain
from tests.dataset.handmade import drawn, write_ade20k, write_image, write_json
from utils.errors import InputError
from utils.protocol.batch import Sample


class Part:
    """A training set whose samples say where they come from, with a number drawn by chance."""

    def __init__(self, name: str, stream: str = "", seed: int = 0, broken: bool = False):
        self.name, self.broken = name, broken
        self.stream, self.settings = stream or name, SamplingOptions(seed=seed)

    def u(self, index: int) -> float:
        return self.settings.rng(self.stream, index).random()

    def draw(self, index: int) -> Sample:
        if self.broken:
            raise InputError(f"{self.name} is broken")
        text = f"{self.name} {index} {self.u(index)}"
        masks = np.zeros((0, 2, 2), np.uint8)
        return Sample(self.name, np.zeros((2, 2, 3), np.uint8), [text], masks, [False])


def mixture(rates: dict[str, float], seed: int = 0) -> Mixture:
    return Mixture([(name, Part(name, seed=seed)) for name in rates], list(rates.values()), seed)


@pytest.mark.parametrize(
    "rates",
    [
        {"a": 10, "b": 1, "c": 1, "d": 1, "e": 1, "f": 10},
        {"a": 0.5, "b": 0.2, "c": 0.1},
        {"a": 1e-3, "b": 3e-3, "c": 0, "d": 1e-3},
        {"a": 1e308, "b": 1e308},
    ],
)
def test_rates(rates):
    number = 20_000
    mixed = mixture(rates, seed=1)
    found = [mixed.draw(index).image_path for index in range(number)]
    largest = max(rates.values())
    whole = sum(rate / largest for rate in rates.values())
    for name, rate in rates.items():
        share = rate / largest / whole
        error = np.sqrt(share * (1 - share) / number)
        assert abs(found.count(name) / number - share) <= 3 * error, name


@pytest.mark.parametrize("rates", [(0, 1, 0), (1, 0, 0), (0, 0, 1), (0, 1, 1)])
def test_parts_of_rate_zero_are_never_touched(rates):
    parts = [(name, Part(name) if rate else None) for name, rate in zip("abc", rates, strict=True)]
    mixed = Mixture(parts, rates, 0)
    expected = {name for name, rate in zip("abc", rates, strict=True) if rate}
    assert set(mixed.names) == expected
    assert {mixed.draw(index).image_path for index in range(500)} == expected


def test_a_sample_is_the_parts_own_sample_of_that_number():
    mixed = mixture({"a": 1, "b": 2}, seed=3)
    for index in (0, 7, 1 << 41):
        name = mixed.names[mixed.choice(index)]
        expected = Part(name, seed=3).draw(index).conversations
        assert mixed.draw(index).conversations == expected


@pytest.mark.parametrize("stream", ["sem_seg", "reason_seg", "vqa", "refer_seg"])
def test_the_choice_tells_nothing_about_what_a_part_draws(stream):
    """The part's chance, over the draws it is chosen for, is uniform, and so are its halves."""
    number, rate = 20_000, 0.25
    part = Part("a", stream, seed=5)
    mixed = Mixture([("a", part), ("b", Part("b", stream, seed=5))], [rate, 1 - rate], 5)
    draws = [part.u(index) for index in range(number) if mixed.choice(index) == 0]
    assert abs(np.mean(draws) - 0.5) < 3 * np.sqrt(1 / 12 / len(draws))
    low = sum(u < 0.25 for u in draws)
    assert abs(low - len(draws) / 4) < 3 * np.sqrt(len(draws) * 3 / 16)


def test_seeds_differ():
    first, second = (mixture({"a": 1, "b": 1}, seed) for seed in (0, 1))
    numbers = range(200)
    assert [first.choice(n) for n in numbers] == [first.choice(n) for n in reversed(numbers)][::-1]
    same = sum(first.choice(n) == second.choice(n) for n in numbers)
    assert 60 < same < 140


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
@pytest.mark.parametrize("workers", [1, 4])
def test_workers_and_the_first_step_change_nothing(workers):
    parts = [("a", Part("a")), ("bad", Part("bad", broken=True)), ("b", Part("b"))]
    mixed = Mixture(parts, [3, 1, 3], 0)
    alone = drawn(mixed, 0, 12, workers=0)
    assert drawn(mixed, 0, 12, workers) == alone
    assert drawn(mixed, 5, 12, workers) == alone[5:]
    assert {path for step in alone for *_, path in step} == {"a", "b"}


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
@pytest.mark.parametrize("workers", [1, 4])
def test_sets_on_disk_with_any_number_of_workers(tmp_path, workers):
    """Label maps, an indexed annotation file and pairs of files in one mixture."""
    labels = np.repeat(np.arange(6, dtype=np.uint8), 8).reshape(6, 8)
    for number in range(3):
        write_ade20k(tmp_path, f"p{number}", np.roll(labels, number, axis=0) + np.uint8(number))
        write_image(tmp_path / f"coco/train2017/{number}.jpg", labels.shape, number)
        pair = tmp_path / f"reason_seg/ReasonSeg/train/{number}.jpg"
        write_image(pair, labels.shape, number)
        shapes = [{"label": "target", "points": [[1, 1], [5, 1], [5, 4]]}]
        text = [f"thing {number}"]
        annotation = {"shapes": shapes, "text": text, "is_sentence": False}
        write_json(pair.with_suffix(".json"), annotation)
    said = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "A cat."}]
    entries = [{"id": n, "image": f"{n}.jpg", "conversations": said} for n in range(3)]
    write_json(tmp_path / "llava_dataset/talk.json", entries)
    settings = SamplingOptions(seed=2)
    parts = [
        ("sem_seg", SemSegTrain(tmp_path, "ade20k", settings)),
        ("vqa", VqaTrain(tmp_path, "talk", settings)),
        ("reason_seg", ReasonSegTrain(tmp_path, "ReasonSeg|train", settings)),
    ]
    mixed = Mixture(parts, [2, 1, 1], 2)
    alone = drawn(mixed, 0, 10, workers=0)
    assert drawn(mixed, 0, 10, workers) == alone
    assert drawn(mixed, 4, 10, workers) == alone[4:]
    folders = {path.removeprefix(f"{tmp_path}/").split("/")[0] for s in alone for *_, path in s}
    assert folders == {"ade20k", "coco", "reason_seg"}


@pytest.mark.parametrize("rates", [(1,), (1, 2, 3)])
def test_a_rate_for_each_part(rates):
    with pytest.raises(InputError, match=f"{len(rates)} numbers for 2 data sets"):
        Mixture([("a", Part("a")), ("b", Part("b"))], rates, 0)


@pytest.mark.parametrize("rates", [(0, 0), (1, -1), (float("nan"), 1), (float("inf"), 1)])
def test_rates_that_mean_nothing(rates):
    with pytest.raises(InputError, match="--sample_rates .* at least 0"):
        Mixture([("a", Part("a")), ("b", Part("b"))], rates, 0)
