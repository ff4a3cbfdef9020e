"""Masks of the same answers with other SasP parameters, counted against the truth.

The language model and SAM's image encoder do not run again: a setting costs SAM's mask decoder
(the paper's ablation of the prompt). Settings with equally long prompts go through it together,
also those of several images. Legend: see `model.sasp` and `model.sam`; A settings, M masks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from model.inference.answer import Answer
from model.inference.scheduler import is_out_of_memory
from model.inference.seg_states import SegStates
from model.read_model import ReadForCausalLM
from model.sasp import SaspParams
from utils.errors import InputError
from utils.evaluation.evaluator import MaskOutcome
from utils.protocol.constants import IGNORE_LABEL

CELLS_AT_ONCE = 32 * 64 * 64
"""Cells of image embeddings that go through the mask decoder together: 32 masks at full size."""
PIXELS_AT_ONCE = 32 * 1024 * 1024
"""Pixels of masks that are held together."""


def grid(own: SaspParams, budgets: Sequence[int]) -> list[SaspParams]:
    """The settings of an ablation around a model's own one, which is the first.

    Text alone; discrete points and DtoC, with fixed and with std thresholds, with each number of
    points. What is not varied is as in `own`, and no setting comes twice.

    Args:
        own: what the model uses.
        budgets: values of `num_points`; that of `own` is always among them.
    """
    budgets = sorted({*budgets, own.num_points})
    settings = [own]
    if own.prompt != "text":
        settings.append(replace(own, prompt="text"))
    for prompt in ("discrete", "points"):
        for thresholds in ("fixed", "std"):
            for count in budgets:
                params = replace(own, prompt=prompt, thresholds=thresholds, num_points=count)
                if params not in settings:
                    settings.append(params)
    return settings


@dataclass(frozen=True, eq=False)
class _ImageMasks:
    """Answers about an image: `counts[n]` masks for the n-th, their `[SEG]` tokens in one row."""

    states: SegStates
    counts: list[int]
    truth: np.ndarray


@dataclass
class Ablation:
    """Counts the masks that answers would have had with other settings.

    Args:
        model: READ, in evaluation mode.
        settings: A settings.
        questions_at_once: how many answers a caller should gather before a call.
        share: part of the usual number of masks that fits; halved where memory does not suffice.
    """

    model: ReadForCausalLM
    settings: Sequence[SaspParams]
    questions_at_once: int = 32
    share: float = 1.0

    def __call__(
        self, images: Sequence[tuple[Sequence[Answer], Sequence[np.ndarray]]]
    ) -> list[list[list[MaskOutcome]]]:
        """Outcomes of answers about some images.

        Args:
            images: for each its answers, with their states (`Reader.stream(...,
                keep_states=True)`), and for each answer a true mask uint8[H, W] (0/1/255; 255 does
                not count).

        Returns:
            for each image, for each answer, A outcomes in the order of the settings.

        Raises:
            InputError: memory does not suffice for one mask.
        """
        with_masks = [masks for answers, truths in images if (masks := _masks(answers, truths))]
        outcomes = self._guarded(with_masks) if with_masks else []
        counted = iter([row for rows in outcomes for row in rows])
        return [
            [
                next(counted) if answer.states else self._no_mask(truth)
                for answer, truth in zip(answers, truths, strict=True)
            ]
            for answers, truths in images
        ]

    def _no_mask(self, truth: np.ndarray) -> list[MaskOutcome]:
        return [(False, 0, int(np.count_nonzero(truth == 1)))] * len(self.settings)

    def _guarded(self, images: Sequence[_ImageMasks]) -> list[list[list[MaskOutcome]]]:
        while True:
            try:
                return self._outcomes(images)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                if self.share * CELLS_AT_ONCE < 1:
                    raise InputError(
                        "out of memory with one mask at a time: choose a smaller number format "
                        f"(--precision bf16) or a device with more memory ({error})"
                    ) from error
            self.share /= 2
            if torch.cuda.is_available():
                torch.cuda.empty_cache()

    @torch.no_grad()
    def _outcomes(self, images: Sequence[_ImageMasks]) -> list[list[list[MaskOutcome]]]:
        """For each image, for each answer, A outcomes."""
        contexts = [image.states.image for image in images for _ in self.settings]
        prompts = [tokens for image in images for tokens in self._prompts(image.states)]
        cells = contexts[0].embedding.shape[-2:].numel()
        rows = max(1, int(self.share * CELLS_AT_ONCE) // cells)
        decoded = self.model.sam.decode_prompts(contexts, prompts, rows)
        logits = iter([low for low, _ in decoded])
        return [self._count(image, [next(logits) for _ in self.settings]) for image in images]

    def _prompts(self, states: SegStates) -> list[torch.Tensor]:
        """SAM's prompt tokens float[M, K, C] of each setting: few points are the first of many."""
        most = max(params.num_points for params in self.settings)
        longest = [replace(params, num_points=most) for params in self.settings]
        tokens = {
            params: self.model.prompt_masks([states.image], [states.query], params)[0].tokens
            for params in dict.fromkeys(longest)
        }
        return [
            _first(tokens[whole], params.num_points)
            for whole, params in zip(longest, self.settings, strict=True)
        ]

    def _count(self, image: _ImageMasks, logits: list[torch.Tensor]) -> list[list[MaskOutcome]]:
        """Outcomes of an image's answers from the logits float[M, 1, 4h, 4w] of each setting."""
        sam, context = self.model.sam, image.states.image
        truth = torch.from_numpy(image.truth).to(logits[0].device)
        height, width = context.size
        pixels = max(height * width, sam.sizes.image_size**2)
        masks_at_once = max(1, int(self.share * PIXELS_AT_ONCE) // pixels)
        step = max(1, masks_at_once // len(logits[0]))
        by_setting: list[list[MaskOutcome]] = []
        for start in range(0, len(logits), step):
            part = logits[start : start + step]
            masks = sam.upscale(torch.cat(part), context.input_size, context.size) > 0
            by_setting += _count_pixels(
                _union(masks.unflatten(0, (len(part), -1)), image.counts), truth
            )
        return [list(row) for row in zip(*by_setting, strict=True)]


def _masks(answers: Sequence[Answer], truths: Sequence[np.ndarray]) -> _ImageMasks | None:
    """The answers that hold a `[SEG]`, None without any."""
    pairs = [(a.states, t) for a, t in zip(answers, truths, strict=True) if a.states is not None]
    if not pairs:
        return None
    seg_state = [states.query.seg_state for states, _ in pairs]
    first = pairs[0][0]
    joined = replace(first, query=replace(first.query, seg_state=torch.cat(seg_state)))
    return _ImageMasks(joined, list(map(len, seg_state)), np.stack([truth for _, truth in pairs]))


def _first(tokens: torch.Tensor, count: int) -> torch.Tensor:
    """The prompt with the first `count` of its points; padding point and text stand behind them."""
    points = tokens.shape[1] - 2
    if count >= points:
        return tokens
    return torch.cat([tokens[:, :count], tokens[:, points:]], dim=1)


def _union(masks: torch.Tensor, counts: Sequence[int]) -> torch.Tensor:
    """Masks bool[A, M, H, W] of answers with so many each -> bool[A, answers, H, W]."""
    if set(counts) == {1}:
        return masks
    return torch.stack([part.any(dim=1) for part in masks.split(list(counts), dim=1)], dim=1)


def _count_pixels(masks: torch.Tensor, truth: torch.Tensor) -> list[list[MaskOutcome]]:
    """Outcomes of masks bool[A, N, H, W] against truth uint8[N, H, W] (0/1/255)."""
    area, is_object, counts = _pixels(masks), truth == 1, truth != IGNORE_LABEL
    counted = area if bool(counts.all()) else _pixels(masks & counts)
    intersection = _pixels(masks & is_object)
    union = counted + _pixels(is_object) - intersection
    return [
        [(bool(pixels), inside, either) for pixels, inside, either in zip(*row, strict=True)]
        for row in zip(area.tolist(), intersection.tolist(), union.tolist(), strict=True)
    ]


def _pixels(masks: torch.Tensor) -> torch.Tensor:
    """bool[..., H, W] -> int32[...]; adding bytes is the fastest way to count on a CPU."""
    return masks.flatten(-2).view(torch.uint8).sum(dim=-1, dtype=torch.int32)
