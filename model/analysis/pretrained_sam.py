"""SAM as it was before READ's training, to see what the points are worth to it."""

from __future__ import annotations

from pathlib import Path

import torch

from model.loading.weight_file import load_sam_weights
from model.sam import SamModel
from utils.errors import InputError

TOLERANCE = 0.01
"""Of the comparison of image encoders, relative: models may be stored in 16 bits."""


def load_pretrained_sam(path: str | Path, trained: SamModel) -> SamModel:
    """Prompt encoder and mask decoder of a published SAM, for image embeddings of `trained`.

    Training leaves SAM's image encoder alone, so embeddings that the model has made serve both.

    Args:
        path: SAM's own file.
        trained: of the model.

    Returns:
        a SAM on the device of `trained`; its image encoder is gone.

    Raises:
        InputError: no such file, it has other sizes, or another image encoder.
    """
    first = SamModel(trained.sizes)
    load_sam_weights(first, path)
    theirs = dict(first.image_encoder.named_parameters())
    for name, weight in trained.image_encoder.named_parameters():
        ours, other = weight.detach().float().cpu(), theirs[name].detach()
        if not torch.allclose(ours, other, rtol=TOLERANCE, atol=TOLERANCE * float(other.std())):
            raise InputError(
                f"{path} is not the SAM that this model was trained from: {name} of the image "
                "encoder differs; give the file that training was given (--vision_pretrained)"
            )
    del first.image_encoder
    device = trained.mask_decoder.iou_token.weight.device
    return first.requires_grad_(False).eval().to(device)
