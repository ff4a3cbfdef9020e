"""What DtoC does to points in numbers: how far it moves them, and how large their gradients are.

    python -m benchmarks.dtoc [--model DIR --data DIR] [--out benchmarks/results]

On random maps (independent values: as steep as a map can be; smooth ones: a few broad hills), and,
with a model folder and its data, on the maps of that model. Writes dtoc.md.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import torch
from torch.nn import functional as F

from benchmarks import output
from dataset.reason_seg import ReasonSegEval
from model import load_read
from model.sasp import SaspParams, similarity_to_points
from utils.protocol.conversation import POSITIVE_ANSWER

SIDE, MAPS, QUESTIONS = 24, 50, 100
SIZES = ((480, 640), (1080, 1920))
Case = tuple[torch.Tensor, tuple[int, int], SaspParams]


def random_maps(smooth: bool) -> torch.Tensor:
    """float32[MAPS, V]: independent values, or hills about six tokens wide."""
    generator = torch.Generator().manual_seed(0)
    side = SIDE // 6 if smooth else SIDE
    maps = torch.rand(MAPS, 1, side, side, generator=generator)
    return F.interpolate(maps, size=(SIDE, SIDE), mode="bicubic").flatten(1)


def model_maps(model: Path, data: Path) -> Iterator[Case]:
    """The maps of a trained model with its own parameters."""
    reader = load_read(model)
    items = ReasonSegEval(data, "test")
    for number in range(min(QUESTIONS, len(items))):
        item = items[number]
        (answer,) = reader.segment_batch([(item.image, [item.questions[0].text])], POSITIVE_ANSWER)
        similarity = torch.from_numpy(answer.segments[0].similarity).flatten()
        yield similarity, item.image.shape[:2], reader.model.config.sasp_params


def measure(cases: Iterator[Case]) -> tuple[float, torch.Tensor, torch.Tensor]:
    """Pixels in a cell (mean), how far each point moves, and how much one token can move it.

    Neutral points are left out: they have no position for SAM. The second number is the largest
    derivative of x or y with respect to one token, times the spread of the map: the pixels that a
    point moves, to first order, when one token rises by the whole range of the map.
    """
    cells, shifts, gradients = [], [], []
    for similarity, size, params in cases:
        still = SaspParams(**{**vars(params), "prompt": "discrete"})
        before, labels = similarity_to_points(similarity, size, still)

        def moved(values, size=size, params=params):
            return similarity_to_points(values, size, params)[0]

        points = labels >= 0
        shifts.append((moved(similarity) - before).norm(dim=-1)[points])
        slope = torch.autograd.functional.jacobian(moved, similarity, vectorize=True)
        spread = similarity.max() - similarity.min()
        gradients.append(slope.abs().amax(dim=(1, 2))[points] * spread)
        cells.append(min(size) / similarity.numel() ** 0.5)
    return sum(cells) / len(cells), torch.cat(shifts), torch.cat(gradients)


def table(rows: list[tuple[str, float, torch.Tensor, torch.Tensor]]) -> str:
    """The page for `results/`."""
    cells = []
    for name, cell, shifts, gradients in rows:
        numbers = [shifts.median(), shifts.max(), gradients.median(), gradients.max()]
        cells.append([name, f"{cell:.1f}", *(f"{float(number):.4f}" for number in numbers)])
    header = ["maps", "a token covers [px]", "shift, median", "shift, largest"]
    return output.page(
        "# DtoC in numbers",
        f"Written by `python -m benchmarks.dtoc`. {MAPS} random maps of {SIDE}x{SIDE} tokens a row "
        "(30 points, every second cell, thresholds 0.8 and 0.2), and the maps of the model of the "
        f"quickstart for {QUESTIONS} questions about test images. Positive and negative points, "
        "pixels of the image. Shift: from the discrete to the continuous point. Gradient: pixels "
        "that a point moves, to first order, when the one token that matters most for it rises by "
        "the whole range of the map.",
        output.table([*header, "gradient, median", "gradient, largest"], cells),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, help="a model folder to measure as well")
    parser.add_argument("--data", type=Path, help="its data folder, with ReasonSeg|test")
    parser.add_argument("--out", type=Path, default=output.RESULTS)
    given = parser.parse_args()
    rows = []
    for smooth in (False, True):
        for height, width in SIZES:
            name = f"{'smooth' if smooth else 'independent'}, {height}x{width}"
            cases = ((one, (height, width), SaspParams()) for one in random_maps(smooth))
            rows.append((name, *measure(cases)))
    if given.model is not None:
        rows.append(
            ("trained toy model, about 140x140", *measure(model_maps(given.model, given.data)))
        )
    output.save(given.out, "dtoc", table(rows))


if __name__ == "__main__":
    main()
