"""The formulas, images and numbers of `docs/sasp.md`."""

import re
from pathlib import Path

import pytest
import torch

from model.sasp import (
    CLIP_FRAME,
    SaspParams,
    discrete_to_continuous,
    similarity_to_points,
    upscaling_matrix,
)
from utils.protocol.geometry import crop_padding

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "sasp.md").read_text("utf-8")
SIZE, SIDE = (60, 90), 8
PARAMS = SaspParams(num_points=6, down_sample=1)


@pytest.fixture
def similarity() -> torch.Tensor:
    """float64[V]."""
    return 1000 * torch.rand(SIDE**2, generator=torch.Generator().manual_seed(0)).double()


def whole_map(similarity: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """M, A_y and A_x of the page."""
    scaled = (similarity - similarity.min()) / (similarity.max() - similarity.min())
    rows_off, columns_off = crop_padding(SIZE, CLIP_FRAME)
    along_y = upscaling_matrix(SIDE, CLIP_FRAME, rows_off, SIZE[0]).double()
    along_x = upscaling_matrix(SIDE, CLIP_FRAME, columns_off, SIZE[1]).double()
    return along_y @ scaled.reshape(SIDE, SIDE) @ along_x.T, along_y, along_x


def weights_at(whole: torch.Tensor, point: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """The weights of every pixel of the image by the definition, and the pixels' y and x."""
    y, x = torch.meshgrid(*(torch.arange(n).double() for n in SIZE), indexing="ij")
    probability = whole.flatten().softmax(0).reshape(SIZE)
    weights = torch.exp(-((x - point[0]) ** 2) - (y - point[1]) ** 2) * probability
    return weights / weights.sum(), y, x


def test_points_are_the_weighted_means_of_the_page(similarity):
    still, labels = similarity_to_points(
        similarity, SIZE, SaspParams(num_points=6, down_sample=1, prompt="discrete")
    )
    moved, _ = similarity_to_points(similarity, SIZE, PARAMS)
    whole, _, _ = whole_map(similarity)
    for before, after in zip(still, moved, strict=True):
        weights, y, x = weights_at(whole, before)
        mean = torch.stack([(weights * x).sum(), (weights * y).sum()])
        torch.testing.assert_close(after.double(), mean, atol=1e-4, rtol=0)
    assert (labels >= 0).all()


def test_a_point_moves_by_half_the_slope():
    """On a plane inside the image; the window's variance is 1/2 along each axis."""
    for slope in (-0.05, 0.02):
        row = torch.arange(24.0)
        grid = row.expand(24, 24) if slope > 0 else -row.expand(24, 24)
        size = (round(1 / abs(slope)) * 24, round(1 / abs(slope)) * 24)
        point = torch.tensor([[[size[1] // 2, size[0] // 2]]]).float()
        shift = (discrete_to_continuous(grid[None], point, size) - point)[0, 0]
        cell, steps = size[0] / 24, 23
        expected = (1 if slope > 0 else -1) / (cell * steps) / 2
        assert float(shift[0]) == pytest.approx(expected, rel=0.03)
        assert abs(float(shift[1])) < 1e-6


def test_the_gradient_of_the_page_is_that_of_autograd(similarity):
    values = similarity.float().requires_grad_()
    still, _ = similarity_to_points(
        similarity, SIZE, SaspParams(num_points=6, down_sample=1, prompt="discrete")
    )
    moved, _ = similarity_to_points(values, SIZE, PARAMS)
    whole, along_y, along_x = whole_map(similarity)
    spread = similarity.max() - similarity.min()
    scaled = (similarity - similarity.min()) / spread
    for number, point in enumerate(still):
        weights, y, x = weights_at(whole, point)
        for axis, place in enumerate((x, y)):
            centre = (weights * place).sum()
            g = (along_y.T @ (weights * (place - centre)) @ along_x).flatten()
            expected = g.clone()
            expected[similarity.argmax()] -= (g * scaled).sum()
            expected[similarity.argmin()] -= (g * (1 - scaled)).sum()
            (found,) = torch.autograd.grad(moved[number, axis], values, retain_graph=True)
            torch.testing.assert_close(
                found.double(), expected / spread, atol=1e-4 * float(found.abs().max()), rtol=0
            )


def test_numbers_are_those_of_the_benchmark():
    results = (ROOT / "benchmarks" / "results" / "dtoc.md").read_text("utf-8")
    measured = [line for line in results.splitlines() if line.startswith("|")]
    assert len(measured) == 7 and "\n".join(measured) in PAGE


def test_images_and_links_are_there():
    targets = re.findall(r"\]\(([^)]+)\)", PAGE)
    assert len([target for target in targets if target.endswith(".png")]) == 9
    for target in targets:
        assert (ROOT / "docs" / target).exists(), target


def test_the_script_draws_the_images_of_the_page(tmp_path):
    import numpy as np

    from docs.make_sasp_images import Steps, wide_part
    from model import Segment

    image = wide_part(np.full((100, 120, 3), 128, np.uint8))
    assert image.shape == (91, 120, 3)
    hill = np.exp(-((np.arange(8)[:, None] - 2) ** 2 + (np.arange(8) - 3) ** 2) / 6)
    segment = Segment(
        logits=np.zeros((91, 120), np.float32), mask=np.eye(91, 120, dtype=bool), score=0.5,
        similarity=hill.astype(np.float32), points=np.zeros((0, 2)), point_labels=np.zeros(0),
        token_index=0,
    )  # fmt: skip
    steps = Steps(image, segment, PARAMS, tmp_path)
    steps.input_image("Where?")
    for draw in ("similarity", "classes", "points", "continuous", "window", "shifts"):
        getattr(steps, draw)()
    steps.gradient()
    steps.mask()
    drawn = {path.name for path in tmp_path.iterdir()}
    assert drawn == {path.name for path in (ROOT / "docs" / "sasp").iterdir()}
