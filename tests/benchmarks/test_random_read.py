"""Random models lie on the device that was asked for, whole."""

import pytest
import torch

from benchmarks.random_read import SIZES, random_reader


@pytest.mark.parametrize("size", ["tiny", "7b"])
def test_all_of_a_model_is_on_its_device(size):
    """PyTorch's meta device refuses tensors of the CPU, as a GPU does."""
    model = random_reader(SIZES[size], "meta", torch.bfloat16).model
    tensors = dict(model.named_parameters()) | dict(model.named_buffers())
    elsewhere = [name for name, value in tensors.items() if value.device.type != "meta"]
    assert not elsewhere
    pixels = torch.zeros((2, 3, 336, 336), dtype=torch.uint8, device="meta")
    features = model.encode_clip(pixels)
    assert features.shape == (2, 576, SIZES[size].width)
