"""SasP against the plain reading of the method, and its edge cases."""

import numpy as np
import pytest
import torch

from model.sasp import SaspParams, discrete_points, similarity_map, similarity_to_points
from tests.reference.sasp import padding_of, reference_points
from utils.errors import InputErrors
from utils.protocol.geometry import crop_padding

P = SaspParams
ROUNDED_DOWN = next(n for n in range(25, 400) if int(n * (24 / n)) == 23)
"""A shortest side that rounding makes 23 cells wide instead of 24."""

CASES = [
    ((120, 160), P()),
    ((160, 120), P(num_points=60, t_pos=0.6, down_sample=1)),
    ((336, 336), P(num_points=10)),
    ((333, 500), P(num_points=10, down_sample=1)),
    ((ROUNDED_DOWN, 2 * ROUNDED_DOWN), P(num_points=40, down_sample=1)),
    ((1, 57), P(num_points=12)),
    ((57, 1), P(num_points=12)),
    ((1, 1), P(num_points=3)),
    ((5, 7), P(num_points=900)),
    ((90, 131), P(num_points=700, down_sample=1)),
    ((90, 131), P(num_points=200, thresholds="std")),
    ((90, 131), P(num_points=200, thresholds="std", std_factor=1.5, down_sample=1)),
    ((90, 131), P(prompt="discrete")),
    ((90, 131), P(prompt="text")),
    ((90, 131), P(num_points=20, down_sample=5)),
    ((90, 131), P(num_points=4, down_sample=50)),
]


def make_maps(count: int, side: int = 24, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, side * side, generator=torch.Generator().manual_seed(seed))


def exact(similarity, size, params, coefficients=None):
    """Points, labels and gradient of the reference, in float64 where it is continuous."""
    leaf = similarity.clone().requires_grad_()
    points, labels = reference_points(leaf, size, params, dtype=torch.float64)
    if points.requires_grad:
        (points * coefficients.double()).sum().backward()
    return points.detach(), labels, leaf.grad


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case[0][0]}x{case[0][1]}")
def test_same_as_one_full_map_for_every_point(case):
    size, params = case
    similarity = 5 * make_maps(2, seed=size[0])
    leaf = similarity.clone().requires_grad_()
    points, labels = similarity_to_points(leaf, size, params)
    coefficients = torch.randn(points.shape, generator=torch.Generator().manual_seed(1))
    expected, expected_labels, gradient = exact(similarity, size, params, coefficients)

    assert points.dtype == torch.float32 and labels.dtype == torch.int64
    assert torch.equal(labels, expected_labels)
    assert points.shape == expected.shape
    if points.numel():
        assert (points.detach().double() - expected).abs().max() <= 5e-4
    if params.prompt == "points":
        (points * coefficients).sum().backward()
        largest = gradient.abs().max()
        assert (leaf.grad - gradient).abs().max() <= 1e-4 * largest + 1e-7
    else:
        assert not points.requires_grad


def test_the_case_of_a_lost_border_is_one():
    size = (ROUNDED_DOWN, 2 * ROUNDED_DOWN)
    assert crop_padding(size, 24)[0] == padding_of(size[0], size[0], 24) == -1
    points, _ = similarity_to_points(make_maps(1), size, P(num_points=900, down_sample=1))
    assert points.shape[1] < 24 * 24


def test_one_map_and_a_stack_of_it_agree():
    maps, params = make_maps(3), P()
    points, labels = similarity_to_points(maps, (70, 90), params)
    for number, one in enumerate(maps):
        xy, label = similarity_to_points(one, (70, 90), params)
        assert xy.shape == (30, 2) and label.shape == (30,)
        assert torch.allclose(xy, points[number], atol=1e-5) and torch.equal(label, labels[number])


def test_order_of_points():
    """Positives by falling value, negatives by rising value, neutrals in raster order."""
    values = torch.linspace(0, 1, 36).flip(0).reshape(6, 6)
    params = P(num_points=36, down_sample=1, prompt="discrete")
    points, labels = similarity_to_points(values.flatten(), (60, 60), params)
    cells = [(int(y) // 10) * 6 + int(x) // 10 for x, y in points.tolist()]
    positive = [c for c in range(36) if values.flatten()[c] >= 0.8]
    negative = [c for c in reversed(range(36)) if values.flatten()[c] <= 0.2]
    neutral = [c for c in range(36) if c not in positive + negative]
    assert cells == positive + negative + neutral
    assert labels.tolist() == [1] * len(positive) + [0] * len(negative) + [-1] * len(neutral)


@pytest.mark.parametrize(
    ("size", "down_sample", "columns", "rows"),
    [
        ((200, 1600), 2, {49: 824, 52: 874}, {7: 124}),
        ((1600, 200), 2, {7: 124}, {49: 824, 52: 874}),
        ((400, 380), 2, {}, {7: 249}),
        ((440, 580), 2, {10: 434}, {}),
        ((920, 740), 2, {}, {3: 230, 10: 690}),
        ((1000, 400), 1, {7: 124, 13: 224}, {25: 424, 28: 474}),
        ((800, 1280), 1, {}, {7: 249, 13: 449}),
        ((480, 640), 1, {4: 90, 16: 330}, {0: 10, 23: 470}),
    ],
)
def test_cell_centres_in_float32(size, down_sample, columns, rows):
    """Cells of the whole image's grid; all but the last size differ by a pixel in float64."""
    side = 24 // down_sample
    params = P(num_points=900, down_sample=down_sample, prompt="discrete")
    points, labels = similarity_to_points(torch.zeros(576), size, params)
    assert (labels == -1).all()  # in raster order, then
    grid = points.reshape(side, side, 2)
    rows_off, columns_off = crop_padding(size, side)
    assert {n: int(grid[0, n - columns_off, 0]) for n in columns} == columns
    assert {n: int(grid[n - rows_off, 0, 1]) for n in rows} == rows


@pytest.mark.parametrize("thresholds", ["fixed", "std"])
def test_a_constant_map_is_neutral_with_finite_gradients(thresholds):
    maps = torch.stack([torch.full((576,), 3.0), make_maps(1)[0]]).requires_grad_()
    points, labels = similarity_to_points(maps, (48, 64), P(num_points=900, thresholds=thresholds))
    assert points.shape == (2, 144, 2)
    assert labels[0].unique().tolist() == [-1] and (labels[1] == 1).any()
    points.sum().backward()
    assert torch.isfinite(points).all() and torch.isfinite(maps.grad).all()
    assert maps.grad[1].abs().max() > 0


def test_points_stay_in_the_image():
    for size in [(1, 1), (1, 300), (300, 1), (3, 2), (41, 43)]:
        points, _ = similarity_to_points(make_maps(2), size, P(num_points=900, down_sample=1))
        assert (points >= -1e-4).all()
        assert (points[..., 0] <= size[1] - 1 + 1e-4).all()
        assert (points[..., 1] <= size[0] - 1 + 1e-4).all()


def test_std_thresholds_follow_the_map():
    grids = make_maps(1).reshape(1, 24, 24)
    few = discrete_points(grids, (48, 48), P(num_points=900, thresholds="std", std_factor=1.5))[1]
    many = discrete_points(grids, (48, 48), P(num_points=900, thresholds="std", std_factor=0.1))[1]
    assert 0 < (few == 1).sum() < (many == 1).sum()
    assert 0 < (few == 0).sum() < (many == 0).sum()


def test_discrete_and_text_prompts():
    points, labels = similarity_to_points(make_maps(2), (70, 90), P(prompt="discrete"))
    assert torch.equal(points, points.trunc())
    continuous, same = similarity_to_points(make_maps(2), (70, 90), P())
    assert torch.equal(labels, same)
    assert 0 < (continuous - points).abs().max() < 2
    points, labels = similarity_to_points(make_maps(2), (70, 90), P(prompt="text"))
    assert points.shape == (2, 0, 2) and labels.shape == (2, 0)


def test_half_precision_maps_are_computed_in_float32():
    maps = make_maps(2).bfloat16()
    points, labels = similarity_to_points(maps, (70, 90), P())
    expected, expected_labels = similarity_to_points(maps.float(), (70, 90), P())
    assert points.dtype == torch.float32
    assert torch.equal(points, expected) and torch.equal(labels, expected_labels)


def test_similarity_is_a_plain_dot_product():
    generator = torch.Generator().manual_seed(0)
    states = torch.randn(2, 9, 5, generator=generator)
    seg = torch.randn(2, 5, generator=generator)
    expected = np.einsum("nvd,nd->nv", states.numpy(), seg.numpy())
    assert np.allclose(similarity_map(states, seg), expected, atol=1e-6)
    assert np.allclose(similarity_map(states[0], seg[0]), expected[0], atol=1e-6)


@pytest.mark.parametrize("shape", [(), (1, 2, 576), (575,)])
def test_wrong_shapes(shape):
    with pytest.raises(ValueError, match=r"expected \[V\] or \[N, V\]|square grid"):
        similarity_to_points(torch.zeros(shape), (10, 10), P())


def test_every_wrong_setting_is_named_at_once():
    with pytest.raises(InputErrors) as caught:
        P(0, 0.2, 0.8, 0, thresholds="otsu", std_factor=-1, prompt="box")
    text = str(caught.value)
    for word in ("num_points", "down_sample", "'otsu'", "'box'", "std_factor"):
        assert word in text
    with pytest.raises(InputErrors, match="t_neg = 0.8, t_pos = 0.2"):
        P(t_pos=0.2, t_neg=0.8)
