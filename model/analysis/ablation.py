"""Masks of the same answers with other SasP parameters, counted against the truth.

The language model and SAM's image encoder do not run again: a setting costs SAM's mask decoder
(the paper's ablation of the prompt). Settings with equally long prompts go through it together,
also those of several images. Legend: see `model.sasp` and `model.sam`; A settings, M masks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch

from model.inference.answer import Answer
from model.inference.memory_limit import is_out_of_memory
from model.inference.seg_states import ImageFeatures, SegStates
from model.read_model import ReadForCausalLM
from model.sasp import (
    SaspParams,
    discrete_to_continuous,
    similarity_map,
    similarity_to_points,
)
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
                varied = replace(own, prompt=prompt, thresholds=thresholds, num_points=count)
                if varied not in settings:
                    settings.append(varied)
    return settings


_Choice = tuple[SaspParams, bool]
"""How points are chosen, and whether DtoC moves them."""


@dataclass
class _ImageSums:
    """Answers about an image: `counts[n]` masks for the n-th, all their states in one row."""

    states: ImageFeatures
    seg_hidden_states: torch.Tensor
    counts: list[int]
    truths: list[np.ndarray]


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
    _choices: list[_Choice] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        most = max((params.num_points for params in self.settings), default=1)
        wholes = [replace(params, num_points=most) for params in self.settings]
        self._choices = [
            (replace(whole, prompt="discrete"), True)
            if whole.prompt == "points"
            else (whole, False)
            for whole in wholes
        ]

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
        shown = [found for answers, truths in images if (found := _shown(answers, truths))]
        made = iter(self._guarded(shown)) if shown else iter(())
        outcomes = []
        for answers, truths in images:
            mine = iter(next(made)) if any(answer.states for answer in answers) else iter(())
            outcomes.append(
                [
                    next(mine) if answer.states else self._no_mask(truth)
                    for answer, truth in zip(answers, truths, strict=True)
                ]
            )
        return outcomes

    def _no_mask(self, truth: np.ndarray) -> list[MaskOutcome]:
        return [(False, 0, int(np.count_nonzero(truth == 1)))] * len(self.settings)

    def _guarded(self, images: Sequence[_ImageSums]) -> list[list[list[MaskOutcome]]]:
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
    def _outcomes(self, images: Sequence[_ImageSums]) -> list[list[list[MaskOutcome]]]:
        prompts = [self._prompts(image) for image in images]
        low = self._decode(images, prompts)
        return [self._count(image, low[n]) for n, image in enumerate(images)]

    def _prompts(self, image: _ImageSums) -> list[torch.Tensor]:
        """SAM's prompt tokens float[M, K, C] for each setting."""
        sam, states = self.model.model.visual_model, image.states
        text = self.model.model.text_hidden_fcs[0](image.seg_hidden_states)
        maps = similarity_map(
            states.image_states.expand(len(image.seg_hidden_states), -1, -1),
            image.seg_hidden_states,
        )
        made = self._points(maps, states.size)
        tokens: dict[_Choice, torch.Tensor] = {}
        for length in {points.shape[1] for points, _ in made.values()}:
            alike = [choice for choice, (points, _) in made.items() if points.shape[1] == length]
            points, labels = (torch.cat([made[c][part] for c in alike]) for part in (0, 1))
            texts = text.repeat(len(alike), 1)
            encoded = sam.sparse_prompt(points, labels, texts, states.size, states.sam_size)
            tokens.update(zip(alike, encoded.chunk(len(alike)), strict=True))
        return [
            text[:, None] if params.prompt == "text" else _first(tokens[choice], params.num_points)
            for params, choice in zip(self.settings, self._choices, strict=True)
        ]

    def _points(
        self, maps: torch.Tensor, size: tuple[int, int]
    ) -> dict[_Choice, tuple[torch.Tensor, torch.Tensor]]:
        """As many points as any setting wants, and labels: fewer are the first of more."""
        chosen = {
            whole: similarity_to_points(maps, size, whole)
            for whole, _ in dict.fromkeys(self._choices)
            if whole.prompt != "text"
        }
        made = {(whole, False): found for whole, found in chosen.items()}
        if chosen and any(moved for _, moved in self._choices):
            points = [points for points, _ in chosen.values()]
            side = round(maps.shape[-1] ** 0.5)
            grids = maps.reshape(-1, side, side)
            moved = discrete_to_continuous(grids, torch.cat(points, dim=1), size)
            parts = moved.split([part.shape[1] for part in points], dim=1)
            for (whole, (_, labels)), part in zip(chosen.items(), parts, strict=True):
                made[whole, True] = part, labels
        return made

    def _decode(
        self, images: Sequence[_ImageSums], prompts: Sequence[Sequence[torch.Tensor]]
    ) -> list[list[torch.Tensor]]:
        """Low-resolution logits float[M, 1, 4h, 4w] for each image, for each setting."""
        by_length: dict[int, list[tuple[int, int]]] = {}
        for n, of_image in enumerate(prompts):
            for setting, tokens in enumerate(of_image):
                by_length.setdefault(tokens.shape[1], []).append((n, setting))
        low: list[list[torch.Tensor]] = [[torch.empty(0)] * len(self.settings) for _ in images]
        sam = self.model.model.visual_model
        cells = images[0].states.embedding.shape[-2:].numel()
        rows = max(1, int(self.share * CELLS_AT_ONCE) // cells)
        for places in by_length.values():
            tokens = torch.cat([prompts[n][setting] for n, setting in places])
            counts = [len(prompts[n][setting]) for n, setting in places]
            owner = torch.tensor([n for n, _ in places]).repeat_interleave(torch.tensor(counts))
            parts = [
                sam.decode(torch.cat([images[n].states.embedding for n in mine]), some)[0]
                for mine, some in zip(owner.split(rows), tokens.split(rows), strict=True)
            ]
            for (n, setting), part in zip(places, torch.cat(parts).split(counts), strict=True):
                low[n][setting] = part
        return low

    def _count(self, image: _ImageSums, low: Sequence[torch.Tensor]) -> list[list[MaskOutcome]]:
        """Outcomes of an image's answers from the logits of each setting."""
        sam, states = self.model.model.visual_model, image.states
        truth = _Truth(torch.from_numpy(np.stack(image.truths)).to(low[0].device))
        height, width = states.size
        masks = max(
            1, int(self.share * PIXELS_AT_ONCE) // max(height * width, sam.sizes.image_size**2)
        )
        step = max(1, masks // len(low[0]))
        found: list[list[MaskOutcome]] = []
        for start in range(0, len(low), step):
            some = low[start : start + step]
            logits = sam.upscale(torch.cat(list(some)), states.sam_size, states.size)
            made = (logits > 0).unflatten(0, (len(some), -1))
            found += truth.outcomes(_union(made, image.counts))
        return [list(row) for row in zip(*found, strict=True)]


def _shown(answers: Sequence[Answer], truths: Sequence[np.ndarray]) -> _ImageSums | None:
    """The answers that hold a `[SEG]`, None without any."""
    kept = [(a.states, t) for a, t in zip(answers, truths, strict=True) if a.states is not None]
    if not kept:
        return None
    states: list[SegStates] = [state for state, _ in kept]
    return _ImageSums(
        states[0].image,
        torch.cat([state.seg_hidden_states for state in states]),
        [len(state.seg_hidden_states) for state in states],
        [truth for _, truth in kept],
    )


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


class _Truth:
    """True masks uint8[N, H, W] (0/1/255) that many settings are counted against."""

    def __init__(self, truth: torch.Tensor):
        self.object = truth == 1
        self.size = _pixels(self.object)
        counts = truth != IGNORE_LABEL
        self.counts = None if bool(counts.all()) else counts

    def outcomes(self, masks: torch.Tensor) -> list[list[MaskOutcome]]:
        """Of masks bool[A, N, H, W]."""
        area = _pixels(masks)
        counted = area if self.counts is None else _pixels(masks & self.counts)
        both = _pixels(masks & self.object)
        either = counted + self.size - both
        return [
            [(bool(pixels), inside, all_) for pixels, inside, all_ in zip(*row, strict=True)]
            for row in zip(area.tolist(), both.tolist(), either.tolist(), strict=True)
        ]


def _pixels(masks: torch.Tensor) -> torch.Tensor:
    """bool[..., H, W] -> int32[...]; adding bytes is the fastest way to count on a CPU."""
    return masks.flatten(-2).view(torch.uint8).sum(dim=-1, dtype=torch.int32)
