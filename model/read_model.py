"""READ as a transformers model: LLaVA, SAM and the projection between them.

The forward is a list of stages shared by training and generation: states of the prompts ->
`[SEG]` states -> text prompt and points -> image embedding -> masks. Only where the hidden states
come from differs. Legend: see `model.llava` and `model.sam`.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
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
from model.outputs import MaskPrediction, PromptStates, ReadOutput
from model.sam import SamModel, sam_sizes
from model.sasp import SaspParams, similarity_map, similarity_to_points
from model.seg_tokens import image_states, locate_seg
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
    def views(self) -> ImageViews:
        """Which views of an image this model wants."""
        return ImageViews(self._tower.processor, self.model.visual_model.sizes.image_size)

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
        features = self._tower(pixels.to(self.device))
        return self.model.mm_projector(features.to(self.model.mm_projector[0].weight.dtype))

    @torch.no_grad()
    def encode_sam(self, pixels: torch.Tensor, sizes: Sequence[tuple[int, int]]) -> torch.Tensor:
        """SAM views uint8[B, 3, S, S] with the images' sizes (h, w) -> float[B, C, h', w']."""
        chunks = [
            self.model.visual_model.encode(
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
            input_ids, attention_mask, self.model.embed_tokens, image_features, image_index
        )
        hidden = forward_packed(
            self.model,
            spliced,
            pack_shared_prefix(input_ids, attention_mask, image_index, image_features.shape[1]),
        )
        return PromptStates(hidden, spliced.text_position, spliced.image_start)

    def predict_masks(
        self,
        seg_hidden_states: torch.Tensor,
        image_hidden_states: torch.Tensor,
        image_of_mask: torch.Tensor,
        embeddings: torch.Tensor,
        input_sizes: Sequence[tuple[int, int]],
        sizes: Sequence[tuple[int, int]],
        params: SaspParams | None = None,
        mask_sizes: Sequence[tuple[int, int]] | None = None,
    ) -> list[MaskPrediction]:
        """From `[SEG]` states to masks: text prompt, similarity, points, SAM's decoder.

        Args:
            seg_hidden_states: float[M, D].
            states_of_image: float[M, V, D], the image tokens each of them saw.
            image_of_mask: int64[M], non-decreasing: the image of each.
            embeddings: float[B, C, h', w'], SAM's image embeddings.
            input_sizes: B pairs (h, w) inside the SAM view.
            sizes: B pairs (H, W) of the original images.
            params: how points are chosen; None: as the configuration says.
            mask_sizes: B pairs (h, w) that the mask logits are resized to; None: `sizes`.

        Returns:
            one `MaskPrediction` for each of the B images.
        """
        sam, params = self.model.visual_model, params or self.config.sasp_params
        text = self.model.text_hidden_fcs[0](seg_hidden_states)
        similarity = similarity_map(image_hidden_states, seg_hidden_states)
        counts = torch.bincount(image_of_mask, minlength=len(sizes)).tolist()

        prompts, points, labels = [], [], []
        for texts, maps, input_size, size in zip(
            text.split(counts), similarity.split(counts), input_sizes, sizes, strict=True
        ):
            xy, label = similarity_to_points(maps, size, params)
            points.append(xy)
            labels.append(label)
            prompts.append(sam.sparse_prompt(xy, label, texts, size, input_size))

        low, scores = self._decode(embeddings, prompts, counts)
        return [
            MaskPrediction(sam.upscale(low_i, input_size, size), score, maps, xy, label)
            for low_i, score, maps, xy, label, input_size, size in zip(
                low.split(counts),
                scores.float().split(counts),
                similarity.split(counts),
                points,
                labels,
                input_sizes,
                mask_sizes or sizes,
                strict=True,
            )
        ]

    def _decode(
        self, embeddings: torch.Tensor, prompts: list[torch.Tensor], counts: list[int]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """All masks at once if their prompts are equally long, else image by image."""
        sam = self.model.visual_model
        repeats = torch.tensor(counts, device=embeddings.device)
        if (
            not self.uniform_forward
            and len({prompt.shape[1] for prompt in prompts if len(prompt)}) <= 1
        ):
            used = [prompt for prompt in prompts if len(prompt)] or prompts[:1]
            return sam.decode(embeddings.repeat_interleave(repeats, dim=0), torch.cat(used))
        parts = [
            sam.decode(embeddings[i : i + 1].expand(n, -1, -1, -1), prompts[i])
            for i, n in enumerate(counts)
            if n or self.uniform_forward
        ]
        return torch.cat([low for low, _ in parts]), torch.cat([score for _, score in parts])

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
        predictions = self._teacher_forced_masks(batch, states, used, embeddings)
        logits = [p.logits for p in predictions]
        pair = losses.mask_losses(logits, batch.masks, self.config.max_loss_pixels)
        if pair is None:
            bce = dice = self._zero_of_masks(predictions).to(ce_loss)
        else:
            bce = self.config.bce_loss_weight * pair[0]
            dice = self.config.dice_loss_weight * pair[1]
            if self.uniform_forward:
                bce = bce + self._zero_of_masks(predictions)
        return ReadOutput(
            loss=ce_loss + bce + dice,
            ce_loss=ce_loss,
            mask_bce_loss=bce,
            mask_dice_loss=dice,
            mask_loss=bce + dice,
            mask_logits=logits,
        )

    def _zero_of_masks(self, predictions: Sequence[MaskPrediction]) -> torch.Tensor:
        """0, with zero gradients instead of none: every rank reduces the same parameters."""
        if self.uniform_forward:
            return torch.stack([p.logits[:0].sum() for p in predictions]).sum()
        return losses.zero_of(self.model.text_hidden_fcs, self.model.visual_model)

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

    def _teacher_forced_masks(
        self,
        batch: Batch,
        states: PromptStates,
        used: torch.Tensor,
        embeddings: torch.Tensor,
    ) -> list[MaskPrediction]:
        seg = locate_seg(batch.input_ids, states.text_position, self.seg_token_id)
        bounded = [losses.loss_size(s, self.config.max_loss_pixels) for s in batch.original_sizes]
        image_of_mask = torch.searchsorted(used, batch.image_index[seg.row])
        none = [MaskPrediction.none(size, self.image_tokens, self.device) for size in bounded]
        if len(used) == 0:
            return none
        chosen = used.tolist()
        made = self.predict_masks(
            states.hidden[seg.row, seg.state_position],
            image_states(states.hidden[seg.row], states.image_start[seg.row], self.image_tokens),
            image_of_mask,
            embeddings,
            [batch.sam_sizes[i] for i in chosen],
            [batch.original_sizes[i] for i in chosen],
            mask_sizes=[bounded[i] for i in chosen],
        )
        by_image = dict(zip(chosen, made, strict=True))
        return [by_image.get(i, empty) for i, empty in enumerate(none)]

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
