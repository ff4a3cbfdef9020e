"""SAM before training beside the trained one."""

import pytest
import torch

from model.analysis.pretrained_sam import load_pretrained_sam
from model.sam import SamModel
from utils.errors import InputError


@pytest.fixture
def stored(reader, tmp_path):
    """The model's SAM in SAM's own file, its decoder as before another training."""
    state = {k: v.clone() for k, v in reader.model.model.visual_model.state_dict().items()}
    state["mask_decoder.iou_token.weight"] += 1
    torch.save(state, tmp_path / "sam.pth")
    return tmp_path / "sam.pth"


def test_decoder_and_prompts_come_from_the_file(reader, stored):
    trained: SamModel = reader.model.model.visual_model
    first = load_pretrained_sam(stored, trained)
    generator = torch.Generator().manual_seed(0)
    embedding = torch.randn(2, 256, 8, 8, generator=generator)
    points = torch.rand(2, 3, 2, generator=generator) * 60
    prompt = first.sparse_prompt(
        points, torch.ones(2, 3, dtype=torch.int64), None, (60, 80), (96, 128)
    )
    made = first.decode(embedding, prompt)[0]
    assert not torch.allclose(made, trained.decode(embedding, prompt)[0])
    with torch.no_grad():
        trained.mask_decoder.iou_token.weight += 1
    torch.testing.assert_close(made, trained.decode(embedding, prompt)[0])
    assert not any(name.startswith("image_encoder") for name in first.state_dict())


def test_a_model_in_16_bits_has_the_same_encoder(reader, stored):
    trained = reader.model.model.visual_model.to(torch.bfloat16)
    assert load_pretrained_sam(stored, trained).mask_decoder.iou_token.weight.dtype == torch.float32


def test_another_sam_is_refused(reader, stored):
    with torch.no_grad():
        reader.model.model.visual_model.image_encoder.pos_embed += 0.1
    with pytest.raises(InputError, match=r"not the SAM .* image encoder differs"):
        load_pretrained_sam(stored, reader.model.model.visual_model)
    with pytest.raises(InputError, match="no SAM weights at"):
        load_pretrained_sam(stored.with_name("none.pth"), reader.model.model.visual_model)
