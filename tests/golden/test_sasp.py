"""SasP against the original: labels exactly, points within 5e-4 px, gradients within 1e-4."""

import json

import numpy as np
import pytest
import torch

from model.sasp import SaspParams, similarity_to_points
from tests.released_tiny import GOLDEN

ARRAYS = np.load(GOLDEN / "sasp.npz")
CASES = json.loads(str(ARRAYS["meta"]))
GRADIENT_CASES = [case for case in CASES if f"grad_{case['i']}" in ARRAYS]


def params_of(case: dict) -> SaspParams:
    return SaspParams(case["num_points"], case["t_pos"], case["t_neg"], case["down_sample"])


def name_of(case: dict) -> str:
    height, width = case["shape"]
    return f"{case['i']}-{height}x{width}-p{case['num_points']}-d{case['down_sample']}"


def test_all_cases_have_a_gradient():
    assert len(CASES) == len(GRADIENT_CASES) == 10


@pytest.mark.parametrize("case", CASES, ids=name_of)
@pytest.mark.parametrize("stacked", [False, True], ids=["one", "stacked"])
def test_points_labels_and_gradients(case, stacked):
    i = case["i"]
    similarity = torch.from_numpy(ARRAYS[f"sm_{i}"]).requires_grad_()
    given = torch.stack([similarity, -similarity.detach()]) if stacked else similarity
    points, labels = similarity_to_points(given, tuple(case["shape"]), params_of(case))
    if stacked:
        points, labels = points[0], labels[0]

    assert points.dtype == torch.float32 and labels.dtype == torch.int64
    assert labels.tolist() == ARRAYS[f"labels_{i}"].tolist()
    assert np.abs(points.detach().numpy() - ARRAYS[f"points_{i}"]).max() <= 5e-4

    (points * torch.from_numpy(ARRAYS[f"coef_{i}"])).sum().backward()
    expected = ARRAYS[f"grad_{i}"]
    error = np.abs(similarity.grad.double().numpy() - expected).max()
    assert error <= 1e-4 * np.abs(expected).max()
