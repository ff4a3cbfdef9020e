"""How fast `model.sasp` is, compared with a full-size map for every point.

    python benchmarks/sasp.py [--repeats 7] [--threads 1]

Both sides run in this process, in turn, on the same similarity maps. Results are compared first:
same labels, points within 5e-4 px, gradients within 1e-4 of their maximum. Ends with exit code 1 if
they differ or a ratio is below 50.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch

from model.sasp import SaspParams, similarity_to_points
from tests.reference.sasp import reference_points

SIZE = (480, 640)
MASKS = (1, 16)
REQUIRED = 50.0
POINT_TOLERANCE = 5e-4
GRADIENT_TOLERANCE = 1e-4


def maps(count: int, side: int = 24) -> torch.Tensor:
    """Smooth similarity maps with some noise, float32[count, side * side]."""
    generator = torch.Generator().manual_seed(count)
    coarse = torch.randn(count, 1, 6, 6, generator=generator)
    smooth = torch.nn.functional.interpolate(
        coarse, size=(side, side), mode="bilinear", align_corners=False
    )
    noise = 0.1 * torch.randn(count, 1, side, side, generator=generator)
    return (10 * (smooth + noise)).flatten(1)


def backward_of(method: Callable, similarity: torch.Tensor, weights: torch.Tensor, **options):
    """Points, labels, and the gradient of a weighted sum of the points."""
    leaf = similarity.clone().requires_grad_()
    points, labels = method(leaf, SIZE, SaspParams(), **options)
    (points * weights.to(points.dtype)).sum().backward()
    return points.detach(), labels, leaf.grad


def differences(similarity: torch.Tensor, weights: torch.Tensor) -> tuple[bool, float, float]:
    """Same labels; largest distance of points in px; largest error of the gradient, relative."""
    points, labels, gradient = backward_of(similarity_to_points, similarity, weights)
    exact = backward_of(reference_points, similarity, weights, dtype=torch.float64)
    same = torch.equal(labels, exact[1])
    apart = (points.double() - exact[0]).abs().max().item()
    error = (gradient - exact[2]).abs().max().item() / exact[2].abs().max().item()
    return same, apart, error


def seconds(action: Callable[[], object], loops: int = 1) -> float:
    """Wall time of one call, mean over `loops`."""
    start = time.perf_counter()
    for _ in range(loops):
        action()
    return (time.perf_counter() - start) / loops


def compare(masks: int, repeats: int) -> tuple[list[str], bool]:
    """Table rows for that many masks, and whether all is as promised."""
    similarity = maps(masks)
    generator = torch.Generator().manual_seed(0)
    weights = torch.randn(masks, SaspParams().num_points, 2, generator=generator)
    same, apart, error = differences(similarity, weights)
    good = same and apart <= POINT_TOLERANCE and error <= GRADIENT_TOLERANCE
    if not good:
        print(f"{masks} masks: results differ ({same=}, {apart=}, {error=})", file=sys.stderr)

    def forward(method: Callable):
        with torch.no_grad():
            return method(similarity, SIZE, SaspParams())

    actions = {
        "forward": forward,
        "forward + backward": lambda method: backward_of(method, similarity, weights),
    }
    rows = []
    for name, action in actions.items():
        action(similarity_to_points)
        slow, fast = [], []
        for _ in range(repeats):
            slow.append(seconds(lambda: action(reference_points)))  # noqa: B023
            fast.append(seconds(lambda: action(similarity_to_points), loops=10))  # noqa: B023
        ratio = median(slow) / median(fast)
        good = good and ratio >= REQUIRED
        rows.append(
            f"| {masks} | {name} | {median(slow) * 1e3:.1f} | {median(fast) * 1e3:.2f} "
            f"| {ratio:.0f} | {apart:.0e} px | {error:.0e} |"
        )
    return rows, good


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=7, help="measurements of each side")
    parser.add_argument("--threads", type=int, default=1, help="threads of PyTorch")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(
        f"SasP at {SIZE[0]}x{SIZE[1]}, {SaspParams().num_points} points; median of "
        f"{options.repeats}, threads: {options.threads}, PyTorch {torch.__version__}\n"
    )
    columns = ("masks", "pass", "full maps [ms]", "windows [ms]", "ratio", "points", "gradient")
    print(f"| {' | '.join(columns)} |")
    print("|" + " --- |" * len(columns))
    good = True
    for masks in MASKS:
        rows, as_promised = compare(masks, options.repeats)
        print("\n".join(rows), flush=True)
        good = good and as_promised
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
