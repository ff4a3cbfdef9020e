"""READ as a transformers model: LLaVA, SAM and the projection between them.

The forward is a list of stages shared by training and generation: states of the prompts ->
`[SEG]` states -> text prompt and points -> image embedding -> masks. Only where the hidden states
come from differs. Legend: see `model.llava` and `model.sam`.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn
from transformers import LlamaModel
from transformers.models.llama.modeling_llama import LlamaPreTrainedModel

from model import losses
from model.config import ReadConfig
from model.llava import (
    VisionTower,
    build_projector,
    load_vision_tower,
    splice_image,
    tower_source,
)
from model.outputs import (
    ImageContext,
    MaskPrediction,
    MaskPrompt,
    PromptStates,
    ReadOutput,
    SegQuery,
)
from model.sam import SamModel, sam_sizes
from model.sasp import SaspParams, similarity_to_points
from model.seg_tokens import image_hidden_states, locate_seg
from model.shared_prefix import forward_packed, pack_shared_prefix
from utils.errors import InputError
from utils.protocol.batch import Batch
from utils.protocol.constants import IGNORE_INDEX
from utils.protocol.image_transforms import ImageViews, normalise_for_sam

TOWER_FOLDER = "vision_tower"
TOWER_PREFIX = f"model.{TOWER_FOLDER}."
SAM_CHUNK = 8
"""Images that go through SAM's image encoder at once."""


class ReadModel(LlamaModel):
    """LLaMA with the projector, SAM and the projection of `[SEG]`, under the released names."""

    config_class = ReadConfig

    def __init__(self, config: ReadConfig):
        super().__init__(config)
        sizes = sam_sizes(config.sam)
        if sizes.prompt_dim != config.out_dim:
            raise InputError(
                f"out_dim is {config.out_dim}, but SAM's prompts are {sizes.prompt_dim} wide; "
                "both have to be equal (--out_dim)"
            )
        self.mm_projector = build_projector(
            config.mm_projector_type, config.mm_hidden_size, config.hidden_size
        )
        self.visual_model = SamModel(sizes)
        self.text_hidden_fcs = nn.ModuleList(
            [
                nn.Sequential(
                    nn.Linear(config.hidden_size, config.hidden_size),
                    nn.ReLU(),
                    nn.Linear(config.hidden_size, config.out_dim),
                    nn.Dropout(0.0),
                )
            ]
        )
        self.vision_tower: VisionTower | None = None
        self.post_init()


class ReadForCausalLM(LlamaPreTrainedModel):
    """READ. `forward` takes a `Batch`; `from_pretrained` and `save_pretrained` as usual."""

    config_class = ReadConfig
    config: ReadConfig
    _no_split_modules = ["LlamaDecoderLayer", "Block", "TwoWayAttentionBlock"]
    uniform_forward = False
    """Whether every `forward` runs the same modules equally often, whatever has a mask (ZeRO-3)."""
    _keys_to_ignore_on_load_unexpected = [r"rotary_emb\.inv_freq", r"model\.vision_tower\."]

    def __init__(self, config: ReadConfig):
        super().__init__(config)
        self.model = ReadModel(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    # --- loading and saving -----------------------------------------------------------------

    @classmethod
    def from_pretrained(  # type: ignore[override]
        cls, path, *args, vision_tower: str | Path | None = None, **kwargs
    ):
        """transformers' `from_pretrained`; the CLIP tower is loaded from its own folder.

        Args:
            path: folder or hub id.
            vision_tower: CLIP folder or hub id instead of the configured one.

        Raises:
            InputError: the CLIP tower cannot be loaded.
        """
        loaded = super().from_pretrained(path, *args, **kwargs)
        model = loaded[0] if isinstance(loaded, tuple) else loaded
        model.load_vision_tower(vision_tower, folder=path)
        return loaded

    def load_vision_tower(
        self, source: str | Path | None = None, folder: str | Path | None = None
    ) -> None:
        """Attach the frozen CLIP tower.

        Args:
            source: CLIP folder or hub id; None takes the configuration's.
            folder: checkpoint folder, in or beside which a relative name is looked for.

        Raises:
            InputError: no tower is named, it cannot be loaded, or its width does not fit.
        """
        named = tower_source(self.config, source, folder)
        tower = load_vision_tower(named, self.config.mm_vision_select_layer, self.dtype)
        width = tower.clip.config.hidden_size
        if width != self.config.mm_hidden_size:
            raise InputError(
                f"the CLIP tower {named} is {width} wide, the projector expects "
                f"{self.config.mm_hidden_size}; name the tower the model was trained with"
            )
        self.model.vision_tower = tower.to(self.device)

    def save_pretrained(self, save_directory, *args, state_dict=None, **kwargs):
        """transformers' `save_pretrained`, without CLIP's weights among ours.

        A tower that came from a local folder is stored in `vision_tower/` below, so that the
        folder is complete; one with a hub id stays a hub id.
        """
        state = self.state_dict() if state_dict is None else state_dict
        state = {name: value for name, value in state.items() if not name.startswith(TOWER_PREFIX)}
        target = Path(save_directory)
        tower = self.model.vision_tower
        if tower is not None and Path(tower.source).is_dir():
            self.config.mm_vision_tower = self.config.vision_tower = TOWER_FOLDER
            if Path(tower.source).resolve() != (target / TOWER_FOLDER).resolve():
                shutil.copytree(tower.source, target / TOWER_FOLDER, dirs_exist_ok=True)
        elif tower is not None:
            self.config.mm_vision_tower = self.config.vision_tower = tower.source
        super().save_pretrained(save_directory, *args, state_dict=state, **kwargs)

    def get_input_embeddings(self) -> nn.Embedding:
        """The token embeddings, `model.embed_tokens`."""
        return self.model.embed_tokens

    def get_output_embeddings(self) -> nn.Linear:
        """`lm_head`."""
        return self.lm_head

    @property
    def llm(self) -> ReadModel:
        """LLaMA, `model`."""
        return self.model

    @property
    def sam(self) -> SamModel:
        """SAM, `model.visual_model`."""
        return self.model.visual_model

    @property
    def seg_projector(self) -> nn.Module:
        """From the hidden state of `[SEG]` to SAM's text prompt, `model.text_hidden_fcs.0`."""
        return self.model.text_hidden_fcs[0]

    @property
    def views(self) -> ImageViews:
        """Which views of an image this model wants."""
        return ImageViews(self._tower.processor, self.sam.sizes.image_size)

    @property
    def image_tokens(self) -> int:
        """V, the number of image tokens."""
        return self._tower.side**2

    @property
    def _tower(self) -> VisionTower:
        if self.model.vision_tower is None:
            raise InputError("the model has no CLIP tower yet: call load_vision_tower first")
        return self.model.vision_tower

    # --- stages -----------------------------------------------------------------------------

    def encode_clip(self, pixels: torch.Tensor) -> torch.Tensor:
        """CLIP views uint8 or normalised float[B, 3, C, C] -> image features float[B, V, D]."""
        features, projector = self._tower(pixels.to(self.device)), self.llm.mm_projector
        return projector(features.to(projector[0].weight.dtype))

    @torch.no_grad()
    def encode_sam(self, pixels: torch.Tensor, sizes: Sequence[tuple[int, int]]) -> torch.Tensor:
        """SAM views uint8[B, 3, S, S] with the images' sizes (h, w) -> float[B, C, h', w']."""
        chunks = [
            self.sam.encode(
                normalise_for_sam(
                    pixels[i : i + SAM_CHUNK].to(self.device), list(sizes[i : i + SAM_CHUNK])
                )
            )
            for i in range(0, len(pixels), SAM_CHUNK)
        ]
        return torch.cat(chunks) if chunks else pixels.new_zeros((0, 1, 1, 1), dtype=self.dtype)

    def prompt_states(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        image_features: torch.Tensor,
        image_index: torch.Tensor,
    ) -> PromptStates:
        """Run the language model over whole prompts; arguments as in `splice_image`.

        What prompts about the same image begin with runs once, see `model.shared_prefix`.
        """
        spliced = splice_image(
            input_ids, attention_mask, self.llm.embed_tokens, image_features, image_index
        )
        hidden = forward_packed(
            self.llm,
            spliced,
            pack_shared_prefix(input_ids, attention_mask, image_index, image_features.shape[1]),
        )
        return PromptStates(hidden, spliced.text_position, spliced.image_start)

    def prompt_masks(
        self,
        images: Sequence[ImageContext],
        queries: Sequence[SegQuery],
        params: SaspParams | None = None,
    ) -> list[MaskPrompt]:
        """Text prompt, similarity, points, and SAM's sparse prompt made of them.

        Args:
            images: B images.
            queries: the `[SEG]` tokens of each.
            params: how points are chosen; None: as the configuration says.

        Returns:
            one `MaskPrompt` for each of the B images.
        """
        params = params or self.config.sasp_params
        states = [query.seg_state for query in queries]
        texts = self.seg_projector(torch.cat(states)).split([len(state) for state in states])
        prompts = []
        for image, query, text in zip(images, queries, texts, strict=True):
            similarity = query.similarity()
            points, labels = similarity_to_points(similarity, image.size, params)
            tokens = self.sam.sparse_prompt(points, labels, text, image.size, image.input_size)
            prompts.append(MaskPrompt(tokens, similarity, points, labels))
        return prompts

    def predict_masks(
        self,
        images: Sequence[ImageContext],
        queries: Sequence[SegQuery],
        params: SaspParams | None = None,
    ) -> list[MaskPrediction]:
        """From `[SEG]` states to masks: `prompt_masks`, then `SamModel.decode_masks`."""
        return self.sam.decode_masks(images, self.prompt_masks(images, queries, params))

    # --- training ---------------------------------------------------------------------------

    def forward(self, batch: Batch) -> ReadOutput:
        """Teacher-forced pass: losses and mask logits.

        Args:
            batch: see `Batch`; without masks (all empty) it still trains on the text.

        Returns:
            `ReadOutput`; losses carry their weights, logits are bounded by `max_loss_pixels`.

        Raises:
            ValueError: the number of masks and of `[SEG]` tokens differ.
        """
        if batch.clip_pixels is None or batch.sam_pixels is None:
            batch = batch.with_views(self.views)
        batch = batch.to(self.device)
        assert batch.clip_pixels is not None and batch.sam_pixels is not None
        # First, since what the language model keeps for the backward pass adds to its memory.
        used = self._images_of_masks(batch)
        embeddings = self.encode_sam(
            batch.sam_pixels[used], [batch.sam_sizes[i] for i in used.tolist()]
        )
        states = self.prompt_states(
            batch.input_ids,
            batch.attention_mask,
            self.encode_clip(batch.clip_pixels),
            batch.image_index,
        )
        ce_loss = self.config.ce_loss_weight * self._token_loss(states, batch.labels)
        logits = self._mask_logits(batch, states, used, embeddings)
        pair = losses.mask_losses(logits, batch.masks, self.config.max_loss_pixels)
        if pair is None:
            bce = dice = self._zero_of_masks(logits).to(ce_loss)
        else:
            bce = self.config.bce_loss_weight * pair[0]
            dice = self.config.dice_loss_weight * pair[1]
            if self.uniform_forward:
                bce = bce + self._zero_of_masks(logits)
        return ReadOutput(
            loss=ce_loss + bce + dice,
            ce_loss=ce_loss,
            mask_bce_loss=bce,
            mask_dice_loss=dice,
            mask_loss=bce + dice,
            mask_logits=logits,
        )

    def _zero_of_masks(self, logits: Sequence[torch.Tensor]) -> torch.Tensor:
        """0, with zero gradients instead of none: every rank reduces the same parameters."""
        if self.uniform_forward:
            return torch.stack([masks[:0].sum() for masks in logits]).sum()
        return losses.zero_of(self.seg_projector, self.sam)

    def _token_loss(self, states: PromptStates, labels: torch.Tensor) -> torch.Tensor:
        """Cross entropy at the positions that predict a trained token; no other logits are made."""
        row, column = (labels != IGNORE_INDEX).nonzero(as_tuple=True)
        before = states.hidden[row, states.text_position[row, column] - 1]
        return losses.token_loss(self.lm_head(before), labels[row, column])

    def _images_of_masks(self, batch: Batch) -> torch.Tensor:
        """int64[b], the images with a `[SEG]` in rising order; all of them if `uniform_forward`."""
        if self.uniform_forward:
            return torch.arange(len(batch.original_sizes), device=self.device)
        return torch.unique(batch.image_index[(batch.input_ids == self.seg_token_id).any(dim=1)])

    def _mask_logits(
        self, batch: Batch, states: PromptStates, used: torch.Tensor, embeddings: torch.Tensor
    ) -> list[torch.Tensor]:
        """Mask logits float32[n, h, w] of each image, in the size of its losses."""
        sizes = [losses.loss_size(s, self.config.max_loss_pixels) for s in batch.original_sizes]
        logits = [torch.zeros((0, *size), device=self.device) for size in sizes]
        indices = used.tolist()
        if not indices:
            return logits
        seg = locate_seg(batch.input_ids, states.text_position, self.seg_token_id)
        owner = torch.searchsorted(used, batch.image_index[seg.row])
        counts = torch.bincount(owner, minlength=len(indices)).tolist()
        seg_state = states.hidden[seg.row, seg.state_position]
        image_states = image_hidden_states(
            states.hidden[seg.row], states.image_start[seg.row], self.image_tokens
        )
        queries = list(map(SegQuery, seg_state.split(counts), image_states.split(counts)))
        images = [
            ImageContext(embedding, batch.sam_sizes[i], batch.original_sizes[i])
            for i, embedding in zip(indices, embeddings.split(1), strict=True)
        ]
        prompts = self.prompt_masks(images, queries)
        bounded = [replace(image, size=sizes[i]) for i, image in zip(indices, images, strict=True)]
        predictions = self.sam.decode_masks(bounded, prompts, separate=self.uniform_forward)
        for i, prediction in zip(indices, predictions, strict=True):
            logits[i] = prediction.logits
        return logits

    @property
    def seg_token_id(self) -> int:
        """Id of `[SEG]`.

        Raises:
            InputError: the configuration does not hold it; `load_read` sets it.
        """
        if self.config.seg_token_id is None:
            raise InputError(
                "the model does not know the id of [SEG]: load it with model.load_read, or set "
                "config.seg_token_id to the tokenizer's id of [SEG]"
            )
        return self.config.seg_token_id
