"""The two views of an image: CLIP's 336-pixel centre crop and SAM's padded 1024 frame.

`dataset.image` is the public name.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from PIL import Image
from transformers import CLIPImageProcessorPil

from utils.protocol.geometry import sam_input_size

SAM_MEAN = (123.675, 116.28, 103.53)
SAM_STD = (58.395, 57.12, 57.375)
"""SAM's pixel statistics on the 0-255 scale, RGB."""


def default_clip_processor() -> CLIPImageProcessorPil:
    """CLIP ViT-L/14-336's preprocessing: shortest side to 336, centre crop, CLIP mean/std."""
    return CLIPImageProcessorPil(
        size={"shortest_edge": 336}, crop_size={"height": 336, "width": 336}
    )


def clip_view(image: np.ndarray, processor: CLIPImageProcessorPil) -> torch.Tensor:
    """CLIP's view of an image.

    Args:
        image: uint8[H, W, 3], RGB.
        processor: the PIL-backed processor of the CLIP folder.

    Returns:
        float32[3, 336, 336], normalised.
    """
    # PIL in, so that an image of 1 or 3 pixels is never mistaken for channels-first.
    pixels = processor(images=Image.fromarray(image), return_tensors="np")["pixel_values"][0]
    return torch.from_numpy(np.ascontiguousarray(pixels, dtype=np.float32))


def crop_for_clip(image: np.ndarray, processor: CLIPImageProcessorPil) -> torch.Tensor:
    """CLIP's view of an image before normalisation, a quarter of the bytes.

    Args:
        image: uint8[H, W, 3], RGB.
        processor: the PIL-backed processor of the CLIP folder.

    Returns:
        uint8[3, 336, 336].
    """
    pixels = processor(
        images=Image.fromarray(image), do_rescale=False, do_normalize=False, return_tensors="np"
    )["pixel_values"][0]
    return torch.from_numpy(np.ascontiguousarray(pixels, dtype=np.uint8))


def clip_normalisation(processor: CLIPImageProcessorPil) -> torch.Tensor:
    """What the processor makes of each of the 256 values of each channel: float32[3, 256]."""
    ramp = np.repeat(np.arange(256, dtype=np.uint8)[None, :, None], 3, axis=2)
    pixels = processor(
        images=Image.fromarray(ramp), do_resize=False, do_center_crop=False, return_tensors="np"
    )["pixel_values"][0]
    return torch.from_numpy(np.ascontiguousarray(pixels[:, 0], dtype=np.float32))


def normalise_for_clip(pixels: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
    """Normalise CLIP crops on their device, exactly as the processor does.

    Args:
        pixels: uint8[B, 3, C, C] from `crop_for_clip`.
        table: float32[3, 256] from `clip_normalisation`, on the same device.

    Returns:
        float32[B, 3, C, C].
    """
    channel = torch.arange(3, device=pixels.device).view(1, 3, 1, 1)
    return table[channel, pixels.long()]


def resize_for_sam(
    image: np.ndarray, longest_side: int = 1024
) -> tuple[torch.Tensor, tuple[int, int]]:
    """Resize and pad an image for SAM, still on the 0-255 scale.

    Args:
        image: uint8[H, W, 3], RGB.

    Returns:
        uint8[3, S, S] with the image top left and zeros elsewhere, and its size (h, w) there.
    """
    height, width = sam_input_size(image.shape[:2], longest_side)
    resized = Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR)
    frame = np.zeros((3, longest_side, longest_side), dtype=np.uint8)
    frame[:, :height, :width] = np.asarray(resized).transpose(2, 0, 1)
    return torch.from_numpy(frame), (height, width)


def normalise_for_sam(pixels: torch.Tensor, sizes: list[tuple[int, int]]) -> torch.Tensor:
    """Normalise SAM frames on their device; the padding becomes exactly zero.

    Args:
        pixels: uint8[B, 3, S, S].
        sizes: B pairs (h, w), the image's part.

    Returns:
        float32[B, 3, S, S].
    """
    mean = torch.tensor(SAM_MEAN, device=pixels.device).view(1, 3, 1, 1)
    std = torch.tensor(SAM_STD, device=pixels.device).view(1, 3, 1, 1)
    normalised = (pixels.float() - mean) / std
    for frame, (height, width) in zip(normalised, sizes, strict=True):
        frame[:, height:] = 0
        frame[:, :, width:] = 0
    return normalised


def sam_view(image: np.ndarray, longest_side: int = 1024) -> tuple[torch.Tensor, tuple[int, int]]:
    """SAM's view of an image.

    Args:
        image: uint8[H, W, 3], RGB.

    Returns:
        float32[3, 1024, 1024], normalised and zero-padded right and below, and the image's size
        (h, w) inside it.
    """
    frame, size = resize_for_sam(image, longest_side)
    return normalise_for_sam(frame[None], [size])[0], size


@dataclass(frozen=True)
class ImageViews:
    """Which views a model wants: its CLIP processor and the side of its SAM frame."""

    clip_processor: CLIPImageProcessorPil = field(default_factory=default_clip_processor)
    sam_size: int = 1024

    def clip(self, image: np.ndarray) -> torch.Tensor:
        """uint8[3, C, C]; see `crop_for_clip`."""
        return crop_for_clip(image, self.clip_processor)

    def sam(self, image: np.ndarray) -> tuple[torch.Tensor, tuple[int, int]]:
        """uint8[3, S, S] and (h, w); see `resize_for_sam`."""
        return resize_for_sam(image, self.sam_size)
