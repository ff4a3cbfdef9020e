"""Views of an image: uint8 in the worker, normalised on the device, equal to the processor."""

import numpy as np
import pytest
import torch
from transformers import CLIPImageProcessorPil

from utils.protocol.image_transforms import (
    ImageViews,
    clip_normalisation,
    clip_view,
    crop_for_clip,
    default_clip_processor,
    normalise_for_clip,
)


@pytest.mark.parametrize("size", [(48, 64), (333, 500), (1, 3), (100, 90)])
def test_clip_crops_normalised_later_equal_the_processor(size):
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    processor = default_clip_processor()
    crop = crop_for_clip(image, processor)
    assert crop.dtype == torch.uint8 and crop.shape == (3, 336, 336)
    later = normalise_for_clip(crop[None], clip_normalisation(processor))[0]
    assert torch.equal(later, clip_view(image, processor))


def test_clip_normalisation_follows_the_processor():
    processor = CLIPImageProcessorPil(
        size={"shortest_edge": 28},
        crop_size={"height": 28, "width": 28},
        image_mean=[0.5, 0.25, 0.0],
        image_std=[0.5, 0.25, 2.0],
    )
    table = clip_normalisation(processor)
    values = torch.arange(256, dtype=torch.float64) / 255
    wanted = torch.stack([(values - 0.5) / 0.5, (values - 0.25) / 0.25, values / 2])
    assert torch.allclose(table.double(), wanted, atol=1e-6)


def test_views_travel_as_bytes():
    views = ImageViews(sam_size=64)
    image = np.zeros((30, 40, 3), dtype=np.uint8)
    assert views.clip(image).dtype == torch.uint8
    frame, size = views.sam(image)
    assert frame.dtype == torch.uint8 and size == (48, 64)
