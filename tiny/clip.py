"""Tiny CLIP: a `CLIPVisionModel` trained to say of every patch what it shows.

LLaVA reads hidden state -2 without CLS, so the losses act there, through linear heads that are
thrown away: cross-entropy of the colour, the shape, colour and shape together, the size and the
quarter of the thing that a patch shows ("nothing" included), and binary cross-entropy of the share
of the patch that it covers. The last layer lies behind hidden state -2 and stays as initialised.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModel

from dataset.toy.scene import COLOURS, PLACES, SHAPES, SIZES
from tiny.images import Images, clip_frame
from tiny.schedule import Schedule
from tiny.training import Training

SIDE, PATCH = 112, 14
CELLS = SIDE // PATCH
WIDTH = 96
LAYERS = 5
MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)
_NAMES = {
    "colour": list(COLOURS),
    "shape": list(SHAPES),
    "colour and shape": [f"{c} {s}" for c in COLOURS for s in SHAPES],
    "size": list(SIZES),
    "quarter": list(PLACES),
}


def build() -> CLIPVisionModel:
    config = CLIPVisionConfig(
        hidden_size=WIDTH,
        intermediate_size=4 * WIDTH,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        image_size=SIDE,
        patch_size=PATCH,
        projection_dim=WIDTH,
    )
    return CLIPVisionModel(config)


def normalise(pixels: np.ndarray) -> torch.Tensor:
    """uint8[B, S, S, 3] -> float32[B, 3, S, S]."""
    image = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255
    return (image - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]


def patch_features(clip: CLIPVisionModel, pixels: torch.Tensor) -> torch.Tensor:
    """float32[B, CELLS*CELLS, WIDTH]: hidden state -2 without CLS, as LLaVA selects it."""
    return clip(pixel_values=pixels, output_hidden_states=True).hidden_states[-2][:, 1:]


def patch_cover(images: Images) -> np.ndarray:
    """float32[M, 4, CELLS*CELLS]: the share of every patch that a thing covers."""
    count, things = images.masks.shape[:2]
    blocks = images.masks.reshape(count, things, CELLS, PATCH, CELLS, PATCH)
    return blocks.mean(axis=(3, 5), dtype=np.float32).reshape(count, things, CELLS * CELLS)


def patch_labels(images: Images, cover: np.ndarray) -> dict[str, np.ndarray]:
    """int64[M, CELLS*CELLS] per attribute; 0 is nothing (less than 30 % covered)."""
    top, shown = cover.argmax(axis=1), cover.max(axis=1) >= 0.3
    labels = {}
    for kind, names in _NAMES.items():
        table = np.zeros((len(images.things), cover.shape[1]), np.int64)
        for row, things in enumerate(images.things):
            for number, thing in enumerate(things):
                value = {
                    "colour": thing.colour,
                    "shape": thing.shape,
                    "colour and shape": thing.name,
                    "size": thing.size,
                    "quarter": thing.place,
                }[kind]
                table[row, number] = names.index(value) + 1
        labels[kind] = np.take_along_axis(table, top, axis=1) * shown
    return labels


def train(out: Path, schedule: Schedule) -> dict[str, float]:
    """Train, write the folder `out`, return the accuracies on new images."""
    torch.manual_seed(schedule.seed)
    rng = np.random.default_rng(schedule.seed)
    data = clip_frame(schedule.images, schedule.seed, SIDE)
    new = clip_frame(schedule.unseen, schedule.seed + 1, SIDE)
    cover = patch_cover(data)
    labels = patch_labels(data, cover)
    clip = build().train()
    heads = nn.ModuleDict({k: nn.Linear(WIDTH, len(n) + 1) for k, n in _NAMES.items()})
    heads["cover"] = nn.Linear(WIDTH, 1)
    training = Training("clip", schedule, clip, heads.parameters())
    for _ in training.bar:
        chosen = rng.integers(0, schedule.images, schedule.batch)
        states = patch_features(clip, normalise(data.pixels[chosen]))
        losses = [
            F.cross_entropy(heads[k](states).flatten(0, 1), torch.from_numpy(v[chosen]).flatten())
            for k, v in labels.items()
        ]
        target = torch.from_numpy(cover[chosen].sum(axis=1))
        losses.append(F.binary_cross_entropy_with_logits(heads["cover"](states)[..., 0], target))
        training.step(torch.stack(losses).sum())
    result = evaluate(clip.eval(), heads, new)
    clip.save_pretrained(out)
    CLIPImageProcessor(
        size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE}
    ).save_pretrained(out)
    return result


@torch.no_grad()
def evaluate(clip: CLIPVisionModel, heads: nn.ModuleDict, images: Images) -> dict[str, float]:
    """Accuracy on the patches of new images that show something, per attribute."""
    labels = patch_labels(images, patch_cover(images))
    states = patch_features(clip, normalise(images.pixels))
    result = {}
    for kind, truth in labels.items():
        right = heads[kind](states).argmax(-1).numpy() == truth
        result[kind] = float(right[truth > 0].mean())
    result["nothing"] = float(
        (heads["shape"](states).argmax(-1).numpy() == 0)[labels["shape"] == 0].mean()
    )
    return result
