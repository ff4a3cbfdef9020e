"""A similarity map as point prompts of transformers' `SamModel`.

    python -m examples.sasp_transformers_sam IMAGE SIMILARITY.npy MASK.png [facebook/sam-vit-base]

The map is float[V] or float[side, side], of any `<SEG>` model (`examples/sasp_lisa.py` makes one).
"""

import sys

import numpy as np
import torch
from PIL import Image
from transformers import SamModel, SamProcessor

from model.sasp import SaspParams, similarity_to_points


def segment(
    sam: SamModel,
    processor: SamProcessor,
    image: Image.Image,
    similarity: torch.Tensor,
    params: SaspParams,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Mask bool[H, W], points float32[P, 2] in pixels of the image, labels int64[P].

    Labels mean to `SamModel` what they mean to SasP: 1 in the object, 0 outside, -1 "not a point"
    (it gets a vector of its own and no position). -10, which fills up prompts of different lengths
    in a batch, is not among them: such a point is a vector of zeros.
    """
    points, labels = similarity_to_points(similarity, (image.height, image.width), params)
    inputs = processor(
        image,
        input_points=[[points.tolist()]],  # images, objects, points, (x, y)
        input_labels=[[labels.tolist()]],
        return_tensors="pt",
    )
    with torch.no_grad():
        output = sam(**inputs, multimask_output=False)
    (masks,) = processor.image_processor.post_process_masks(
        output.pred_masks, inputs["original_sizes"], inputs["reshaped_input_sizes"]
    )
    return masks[0, 0], points, labels


def main(argv: list[str]) -> None:
    image_path, similarity_file, mask_file = argv[:3]
    name = argv[3] if len(argv) > 3 else "facebook/sam-vit-base"
    sam, processor = SamModel.from_pretrained(name).eval(), SamProcessor.from_pretrained(name)
    similarity = torch.from_numpy(np.load(similarity_file)).flatten()
    image = Image.open(image_path).convert("RGB")
    mask, points, labels = segment(sam, processor, image, similarity, SaspParams())
    print(f"{int((labels == 1).sum())} points inside, {int((labels == 0).sum())} outside")
    print(f"first point at (x, y) = {points[0].tolist()}; mask of {int(mask.sum())} pixels")
    Image.fromarray(mask.numpy()).save(mask_file)


if __name__ == "__main__":
    main(sys.argv[1:])
