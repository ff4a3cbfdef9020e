"""What an answer's masks are made from, kept so that they can be made again in another way.

Neither the language model nor SAM's image encoder runs again. Legend: see `model.llava` and
`model.sam`; n `[SEG]` tokens of one answer.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from model.outputs import ImageContext, MaskPrediction, MaskPrompt, SegQuery
from model.read_model import ReadForCausalLM
from model.sam import SamModel
from model.sasp import SaspParams


@dataclass(frozen=True, eq=False)
class SegStates:
    """What the masks of an answer are made from.

    Args:
        image: shared by all answers about it.
        query: the answer's n `[SEG]` tokens; the states of the image are shared as well.
        clip_features: float[V, D], CLIP's patches after the projector, shared.
    """

    image: ImageContext
    query: SegQuery
    clip_features: torch.Tensor

    def __getitem__(self, tokens: slice) -> SegStates:
        """Those of some of the `[SEG]` tokens."""
        return replace(self, query=replace(self.query, seg_state=self.query.seg_state[tokens]))


@torch.no_grad()
def resegment(
    model: ReadForCausalLM, states: SegStates, params: SaspParams | None = None
) -> MaskPrediction:
    """The masks of an answer with other SasP parameters; None: the model's own."""
    (prediction,) = model.predict_masks([states.image], [states.query], params)
    return prediction


@torch.no_grad()
def segment_from_points(
    model: ReadForCausalLM,
    states: SegStates,
    points: torch.Tensor,
    labels: torch.Tensor,
    text: bool = True,
    sam: SamModel | None = None,
) -> MaskPrediction:
    """The masks of an answer with given points.

    Args:
        model: READ.
        states: of the answer.
        points: float32[n, P, 2], (x, y) in pixels of the original image; P = 0 leaves them out.
        labels: int64[n, P]: 1 positive, 0 negative, -1 no point.
        text: whether the projected `[SEG]` is part of the prompt; without it SAM sees points alone.
        sam: another SAM of the same sizes and the same frozen image encoder, such as the one
            before training; default: the model's.

    Raises:
        ValueError: neither points nor text.
    """
    if not text and not points.shape[1]:
        raise ValueError("SAM needs points or text; there are neither")
    image, query, sam = states.image, states.query, sam or model.sam
    points, labels = points.to(query.seg_state.device), labels.to(query.seg_state.device)
    texts = model.seg_projector(query.seg_state) if text else None
    tokens = sam.sparse_prompt(points, labels, texts, image.size, image.input_size)
    prompt = MaskPrompt(tokens, query.similarity(), points, labels)
    return sam.decode_masks([image], [prompt])[0]
