"""What travels between the data sets, the model and the evaluation.

Legend (as everywhere): B images, N conversations over all images, T text tokens, H x W original
image size, S the SAM frame (1024), C the CLIP frame (336).
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

if TYPE_CHECKING:
    from utils.protocol.image_transforms import ImageViews


@dataclass
class Sample:
    """One image with its conversations.

    Args:
        image_path: where the image came from; for messages only.
        image: uint8[H, W, 3], RGB.
        conversations: full prompts (see `utils.protocol.conversation`), one per expression.
        masks: uint8[n, H, W] truth, one for each `[SEG]` in the conversations, in their order.
        exists: whether the asked object is there, one per conversation.
        questions: the questions as asked, one per conversation (for reports).
        kind: what kind of question this is (for reports).
    """

    image_path: str
    image: np.ndarray
    conversations: list[str]
    masks: np.ndarray
    exists: list[bool]
    questions: list[str] = field(default_factory=list)
    kind: str = ""


@dataclass
class EvalQuestion:
    """One question of an evaluation.

    Args:
        text: the user's turn, templates applied.
        truth: uint8[H, W]: 1 object, 0 background, 255 does not count; all 0 if absent.
        exists: whether the object is in the image.
        kind: group in reports, such as "direct" or "absent".
        answer_hint: the answer that the annotation gives for a false premise, else "".
        phrase: what the data say, without a template; "" if that is `text` itself.
        forced_answer: what a teacher-forced evaluation gives as the answer; "" for the fixed one.
    """

    text: str
    truth: np.ndarray
    exists: bool
    kind: str = ""
    answer_hint: str = ""
    phrase: str = ""
    forced_answer: str = ""


@dataclass
class EvalItem:
    """One image of an evaluation, uint8[H, W, 3] RGB, with its questions."""

    image_path: str
    image: np.ndarray
    questions: list[EvalQuestion]


@dataclass
class Batch:
    """Several images with their conversations, ready for `ReadForCausalLM.forward`.

    Args:
        input_ids: int64[N, T]; -200 at the image's place.
        attention_mask: bool[N, T]; False on padding.
        labels: int64[N, T]; -100 where nothing is trained.
        image_index: int64[N]: the image of each conversation, non-decreasing.
        original_sizes: B pairs (H, W).
        masks: B tensors uint8[n, H, W] in the original frame, one mask per `[SEG]`.
        images: B arrays uint8[H, W, 3] to make the views from; empty once they are made.
        clip_pixels: uint8[B, 3, C, C] cropped CLIP view, or None: the model makes it.
        sam_pixels: uint8[B, 3, S, S] resized, zero-padded SAM view, or None: the model makes it.
        sam_sizes: B pairs (h, w), the image's part of the SAM view.
        image_paths: B names for messages.
        dropped: expressions left out because cutting the text removed their `[SEG]`.
    """

    input_ids: torch.Tensor
    attention_mask: torch.Tensor
    labels: torch.Tensor
    image_index: torch.Tensor
    original_sizes: list[tuple[int, int]]
    masks: list[torch.Tensor]
    images: list[np.ndarray] = field(default_factory=list)
    clip_pixels: torch.Tensor | None = None
    sam_pixels: torch.Tensor | None = None
    sam_sizes: list[tuple[int, int]] = field(default_factory=list)
    image_paths: list[str] = field(default_factory=list)
    dropped: int = 0

    def with_views(self, views: ImageViews) -> Batch:
        """The same batch with its views made, on the CPU, in the place of the full-size images."""
        frames = [views.sam(image) for image in self.images]
        return replace(
            self,
            images=[],
            clip_pixels=torch.stack([views.clip(image) for image in self.images]),
            sam_pixels=torch.stack([frame for frame, _ in frames]),
            sam_sizes=[size for _, size in frames],
        )

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Batch:
        """The same batch with its tensors on `device`."""
        moved: dict[str, Any] = {}
        for item in fields(self):
            value = getattr(self, item.name)
            if isinstance(value, torch.Tensor):
                moved[item.name] = value.to(device, non_blocking=non_blocking)
            elif item.name == "masks":
                moved[item.name] = [m.to(device, non_blocking=non_blocking) for m in value]
        return replace(self, **moved)

    def pin_memory(self) -> Batch:
        """Called by a DataLoader that pins memory."""
        pinned = {
            item.name: getattr(self, item.name).pin_memory()
            for item in fields(self)
            if isinstance(getattr(self, item.name), torch.Tensor)
        }
        return replace(self, masks=[mask.pin_memory() for mask in self.masks], **pinned)


@dataclass
class MicroBatch:
    """What a loader hands over for one micro step.

    Args:
        batch: ready for the model.
        tried: how many samples were tried.
        broken: messages, with path, about those that could not be read.
    """

    batch: Batch
    tried: int
    broken: list[str] = field(default_factory=list)

    def pin_memory(self) -> MicroBatch:
        return replace(self, batch=self.batch.pin_memory())
