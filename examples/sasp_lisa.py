"""SasP on a model like LISA: a LLaVA that answers with a `<SEG>` token, and `segment_anything`.

    python -m examples.sasp_lisa IMAGE "Where is the dog?" MASK.png LLAVA_FOLDER SAM.pth "[SEG]"

SasP undoes CLIP's centre crop; where images are padded to a square instead, pad them beforehand.
"""

import sys

import numpy as np
import torch
from PIL import Image
from segment_anything import SamPredictor, sam_model_registry
from transformers import AutoProcessor, LlavaForConditionalGeneration

from model.sasp import SaspParams, similarity_map, similarity_to_points


@torch.no_grad()
def seg_and_image_states(llava, inputs, seg_id: int) -> tuple[torch.Tensor, torch.Tensor]:
    """States of the image tokens float[V, D], and the one that predicts `<SEG>` float[D]."""
    last = llava(**inputs, output_hidden_states=True).hidden_states[-1][0]  # after the final norm
    ids = inputs["input_ids"][0]
    return last[ids == llava.config.image_token_id], last[(ids == seg_id).nonzero()[0, 0] - 1]


@torch.no_grad()
def segment(sam, image: np.ndarray, points, labels, text=None) -> torch.Tensor:
    """bool[H, W]. Labels are SAM's: 1 inside, 0 outside, -1 "not a point", without a position.

    `text` float[1, C] is the state of `<SEG>` after the model's own projection, if it has one.
    """
    predictor = SamPredictor(sam)
    predictor.set_image(image)
    in_frame = predictor.transform.apply_coords_torch(points[None], image.shape[:2])
    sparse, dense = sam.prompt_encoder(points=(in_frame, labels[None]), boxes=None, masks=None)
    if text is not None:
        sparse = torch.cat([sparse, text[None]], dim=1)
    place = sam.prompt_encoder.get_dense_pe()
    low, _ = sam.mask_decoder(predictor.features, place, sparse, dense, multimask_output=False)
    logits = sam.postprocess_masks(low, predictor.input_size, predictor.original_size)
    return logits[0, 0] > sam.mask_threshold


def main(image_path, question, mask_file, llava_folder, sam_file, seg="[SEG]") -> None:
    image = Image.open(image_path).convert("RGB")
    processor = AutoProcessor.from_pretrained(llava_folder)
    llava = LlavaForConditionalGeneration.from_pretrained(llava_folder).eval()
    prompt = f"USER: <image>\n{question} ASSISTANT: It is {seg}."
    inputs = processor(images=image, text=prompt, return_tensors="pt")
    seg_id = processor.tokenizer.convert_tokens_to_ids(seg)
    similarity = similarity_map(*seg_and_image_states(llava, inputs, seg_id))
    points, labels = similarity_to_points(similarity, (image.height, image.width), SaspParams())
    mask = segment(sam_model_registry["vit_h"](sam_file), np.asarray(image), points, labels)
    Image.fromarray(mask.numpy()).save(mask_file)


if __name__ == "__main__":
    main(*sys.argv[1:])
