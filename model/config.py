"""READ's configuration: released `config.json` files, and what this project stores with them."""

from __future__ import annotations

from dataclasses import asdict

import torch
from transformers import LlamaConfig

from model.sasp import SaspParams
from utils.protocol.constants import PRECISIONS

DTYPES: dict[str, torch.dtype] = {name: getattr(torch, full) for name, full in PRECISIONS.items()}
"""What `--precision` calls them."""


class ReadConfig(LlamaConfig):
    """LLaMA's configuration, LLaVA's and READ's fields, and the SasP and SAM settings.

    Reads released `config.json` files (model_type "llava") as they are. `sam` and `sasp` are
    mappings with the fields of `SamSizes` and `SaspParams`; None means ViT-H and the 7B preset.
    """

    model_type = "read"

    mm_vision_tower: str | None = None
    vision_tower: str | None = None
    mm_hidden_size: int = 1024
    mm_projector_type: str = "mlp2x_gelu"
    mm_vision_select_layer: int = -2
    mm_use_im_start_end: bool = True
    train_mask_decoder: bool = True
    out_dim: int = 256
    sam: dict | None = None
    sasp: dict | None = None
    seg_token_id: int | None = None
    conv_type: str = "llava_v1"
    ce_loss_weight: float = 1.0
    bce_loss_weight: float = 2.0
    dice_loss_weight: float = 0.5
    max_loss_pixels: int = 0

    @classmethod
    def get_config_dict(cls, *args, **kwargs):
        """Released files say "llava"; everything else in them is read as it stands."""
        values, rest = super().get_config_dict(*args, **kwargs)
        if values.get("model_type") == "llava":
            values = {**values, "model_type": cls.model_type}
        return values, rest

    @property
    def sasp_params(self) -> SaspParams:
        """The stored SasP settings."""
        return SaspParams(**(self.sasp or {}))

    @sasp_params.setter
    def sasp_params(self, params: SaspParams) -> None:
        self.sasp = asdict(params)
