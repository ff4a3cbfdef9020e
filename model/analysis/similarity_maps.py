"""Similarity maps between `[SEG]` and the image, at every place where both can be compared.

All are plain dot products, as in SasP (section 3.2 of the paper).

Legend: n `[SEG]` tokens of an answer, V = side * side image tokens, D width of the language model,
C width of SAM's prompts, h' x w' cells of SAM's frame. Maps of CLIP's grid cover CLIP's centre
crop, those of SAM its padded frame (`clip_box` and `sam_box` of `utils.protocol.geometry`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch

from model.attention import ATTENTION_LOCK
from model.inference.seg_states import SegStates
from model.llava import splice_image
from model.read_model import ReadForCausalLM
from model.sasp import SaspParams, similarity_map


def on_grid(similarity: torch.Tensor) -> torch.Tensor:
    """float[..., V] -> float[..., side, side]."""
    side = round(similarity.shape[-1] ** 0.5)
    return similarity.unflatten(-1, (side, side))


@torch.no_grad()
def llava_maps(states: SegStates) -> torch.Tensor:
    """`[SEG]` x LLaVA: s = h_img . h_seg on the last layer, after the final norm.

    Returns:
        float32[n, side, side] over CLIP's crop; what SasP takes its points from.
    """
    return on_grid(states.query.similarity())


@torch.no_grad()
def clip_maps(states: SegStates) -> torch.Tensor:
    """`[SEG]` x CLIP: s = f . h_seg with CLIP's patch features behind the projector.

    Returns:
        float32[n, side, side] over CLIP's crop.
    """
    return on_grid(replace(states.query, image_states=states.clip_features).similarity())


@torch.no_grad()
def sam_maps(
    model: ReadForCausalLM, states: SegStates, params: SaspParams | None = None
) -> torch.Tensor:
    """`[SEG]` x SAM decoder: s = z . t_seg behind the decoder's two-way transformer.

    t_seg is the updated prompt token of `[SEG]`, the last one, behind SAM's output tokens and the
    points; z are the updated image tokens. Points and padding take part in the attention alone.

    Args:
        model: READ.
        states: of the answer.
        params: how the points beside `[SEG]` are chosen; None: the model's own.

    Returns:
        float32[n, h', w'] over SAM's frame, the padding included.
    """
    (prompt,) = model.prompt_masks([states.image], [states.query], params)
    embedding = states.image.embedding
    tokens, cells = model.sam.attend(
        embedding.expand(len(prompt.tokens), -1, -1, -1), prompt.tokens
    )
    return similarity_map(cells, tokens[:, -1]).unflatten(-1, embedding.shape[-2:])


@dataclass(frozen=True)
class Dialogue:
    """A question with its answer, as the language model reads it.

    Args:
        ids: token ids of prompt and answer, -200 at the image.
        seg: places of the answer's `[SEG]` in them.
    """

    ids: list[int]
    seg: list[int]


@torch.no_grad()
def layer_maps(
    model: ReadForCausalLM,
    clip_features: torch.Tensor,
    dialogues: Sequence[Dialogue],
    layers: Sequence[int],
) -> list[torch.Tensor]:
    """`[SEG]` x LLaVA on any layers: s_k = h_img,k . h_seg,k, from one forward over all dialogues.

    h_seg stands at the position before `[SEG]`. Layer 0 is what enters the language model, layer k
    what its k-th block gives, the last one after the final norm: transformers'
    `output_hidden_states`. Only the maps are kept, no states.

    Args:
        model: READ.
        clip_features: float[V, D], the image behind the projector.
        dialogues: about this image.
        layers: from 0 to the number of blocks.

    Returns:
        for each dialogue float32[n, len(layers), side, side] over CLIP's crop.
    """
    device, longest = clip_features.device, max(len(one.ids) for one in dialogues)
    ids = torch.tensor([one.ids + [0] * (longest - len(one.ids)) for one in dialogues])
    known = torch.tensor([[n < len(one.ids) for n in range(longest)] for one in dialogues])
    row = torch.tensor([n for n, one in enumerate(dialogues) for _ in one.seg], device=device)
    column = torch.tensor([place for one in dialogues for place in one.seg], device=device)
    spliced = splice_image(
        ids.to(device),
        known.to(device),
        model.llm.embed_tokens,
        clip_features[None],
        torch.zeros(len(dialogues), dtype=torch.int64, device=device),
    )
    before = spliced.text_position[row, column] - 1
    first, count = int(spliced.image_start[0]), len(clip_features)
    maps: dict[int, torch.Tensor] = {}

    def compare(layer: int, states: torch.Tensor) -> None:
        # The image stands before the questions: its states are the same in every row.
        image = states[0, first : first + count]
        maps[layer] = similarity_map(image, states[row, before])

    last = len(model.llm.layers)
    hooks = [
        model.llm.layers[layer - 1].register_forward_hook(_after_block(partial(compare, layer)))
        for layer in layers
        if 0 < layer < last
    ]
    try:
        with ATTENTION_LOCK:
            final = model.llm(
                inputs_embeds=spliced.embeds,
                attention_mask=spliced.attention_mask,
                use_cache=False,
            ).last_hidden_state
    finally:
        for hook in hooks:
            hook.remove()
    compare(0, spliced.embeds)
    compare(last, final)
    stacked = on_grid(torch.stack([maps[layer] for layer in layers], dim=1))
    return list(stacked.split([len(one.seg) for one in dialogues]))


def _after_block(use: Callable[[torch.Tensor], None]) -> Callable[..., None]:
    """A forward hook that hands on a block's states."""

    def hook(_module, _arguments, output) -> None:
        use(output[0] if isinstance(output, tuple) else output)

    return hook
