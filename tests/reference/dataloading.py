"""The straightforward way to load the mixture: the yardstick of `benchmarks/dataloading.py`.

Every data set parses its annotation files when it is made and keeps them as Python objects. An
image is decoded once for each of its two views, and the views are normalised to float32 in the
worker.
"""

from __future__ import annotations

import json
import pickle
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from pycocotools import mask as coco
from torch.utils.data import Dataset

from dataset.collate import collate
from dataset.masks import draw_reason_seg
from dataset.sampling import SamplingOptions, Turn, choose, make_sample
from dataset.sem_seg.label_maps import load_classes
from utils.protocol.batch import Batch, Sample
from utils.protocol.conversation import build_prompt, user_turn
from utils.protocol.image_transforms import clip_view, default_clip_processor, sam_view


def read_image_plainly(path: Path) -> np.ndarray:
    """uint8[H, W, 3]."""
    return np.array(Image.open(path).convert("RGB"))


class _Coco:
    """A file of COCO's form: every annotation in a dict."""

    def __init__(self, path: Path):
        content = json.loads(path.read_text(encoding="utf-8"))
        self.images = {image["id"]: image for image in content["images"]}
        self.classes = {entry["id"]: entry["name"] for entry in content["categories"]}
        self.annotations = {entry["id"]: entry for entry in content["annotations"]}
        self.of_image: dict[int, list[dict]] = defaultdict(list)
        for entry in content["annotations"]:
            self.of_image[entry["image_id"]].append(entry)
        self.ids = list(self.of_image)

    def mask(self, annotation: dict) -> np.ndarray:
        image = self.images[annotation["image_id"]]
        runs = coco.frPyObjects(annotation["segmentation"], image["height"], image["width"])
        return coco.decode(coco.merge(runs))


class PlainMixture(Dataset):
    """The same sets and rates as the project's mixture in `dataloading.py`."""

    def __init__(self, root: Path, rates: dict[str, float], settings: SamplingOptions):
        self.root, self.settings = root, settings
        self.names, self.rates = list(rates), np.array(list(rates.values())) / sum(rates.values())
        self.labels = sorted((root / "ade20k/annotations/training").glob("*.png"))
        self.ade_classes = load_classes("ade20k")
        self.paco = _Coco(root / "vlpart/paco/annotations/paco_lvis_v1_train.json")
        self.instances = _Coco(root / "refer_seg/refcoco/instances.json")
        # The benchmark's own file; files of others must never be opened like this.
        refs = pickle.loads((root / "refer_seg/refcoco/refs(unc_exclude_unified).p").read_bytes())
        self.refs: dict[int, list[dict]] = defaultdict(list)
        for ref in refs:
            self.refs[ref["image_id"]].append(ref)
        self.ref_images = list(self.refs)
        path = root / "llava_dataset/llava_instruct_150k.json"
        self.conversations = json.loads(path.read_text(encoding="utf-8"))
        self.reason = sorted((root / "reason_seg/ReasonSeg/train").glob("*.jpg"))

    def __getitem__(self, index: int) -> tuple[Sample, torch.Tensor, tuple, torch.Tensor]:
        rng = self.settings.rng("plain", index)
        name = self.names[int(rng.choice(len(self.names), p=self.rates))]
        path, sample = getattr(self, name)(rng)
        frame, size = sam_view(read_image_plainly(path))
        return sample, frame, size, clip_view(sample.image, default_clip_processor())

    def _sample(self, path: Path, asked: list[tuple[str, bool, np.ndarray]], rng: Any) -> Any:
        templates = self.settings.templates
        turns = [
            Turn(templates.question(text, sentence, rng), templates.positive(text, rng), mask)
            for text, sentence, mask in asked
        ]
        return path, make_sample(str(path), read_image_plainly(path), turns, self.settings, "")

    def sem_seg(self, rng: np.random.Generator) -> Any:
        most = self.settings.num_classes_per_sample
        if rng.random() < 0.5:
            path = self.labels[int(rng.integers(len(self.labels)))]
            labels = np.array(Image.open(path))
            values = [value for value in np.unique(labels) if value]
            chosen = [values[i] for i in choose(rng, len(values), most)]
            asked = [
                (self.ade_classes[v - 1], False, (labels == v).astype(np.uint8)) for v in chosen
            ]
            path = self.root / "ade20k/images/training" / f"{path.stem}.jpg"
            return self._sample(path, asked, rng)
        image_id = self.paco.ids[int(rng.integers(len(self.paco.ids)))]
        found = self.paco.of_image[image_id]
        asked = [
            (self.paco.classes[found[i]["category_id"]], False, self.paco.mask(found[i]))
            for i in choose(rng, len(found), most)
        ]
        path = self.root / "coco" / self.paco.images[image_id]["file_name"]
        return self._sample(path, asked, rng)

    def refer_seg(self, rng: np.random.Generator) -> Any:
        image_id = self.ref_images[int(rng.integers(len(self.ref_images)))]
        pairs = [(ref, s["sent"]) for ref in self.refs[image_id] for s in ref["sentences"]]
        asked = []
        for i in choose(rng, len(pairs), self.settings.num_classes_per_sample):
            annotation = self.instances.annotations[pairs[i][0]["ann_id"]]
            asked.append((pairs[i][1], False, self.instances.mask(annotation)))
        name = self.instances.images[image_id]["file_name"]
        path = self.root / "refer_seg/images/mscoco/images/train2014" / name
        return self._sample(path, asked, rng)

    def vqa(self, rng: np.random.Generator) -> Any:
        entry = self.conversations[int(rng.integers(len(self.conversations)))]
        texts = [turn["value"].replace("<image>", "").strip() for turn in entry["conversations"]]
        turns = list(zip(texts[::2], texts[1::2], strict=True))
        prompt = build_prompt([(user_turn(turns[0][0]), turns[0][1]), *turns[1:]])
        path = self.root / "coco/train2017" / entry["image"]
        image = read_image_plainly(path)
        masks = np.zeros((0, *image.shape[:2]), np.uint8)
        return path, Sample(str(path), image, [prompt], masks, [False])

    def reason_seg(self, rng: np.random.Generator) -> Any:
        path = self.reason[int(rng.integers(len(self.reason)))]
        content = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        with Image.open(path) as opened:
            mask = draw_reason_seg(content["shapes"], (opened.height, opened.width))
        texts = content["text"]
        chosen = choose(rng, len(texts), self.settings.num_classes_per_sample)
        return self._sample(path, [(texts[i], True, mask) for i in chosen], rng)


def plain_collate(items: list[tuple], tokenizer: Any) -> Batch:
    """Join samples; views are float32 already."""
    batch = collate([sample for sample, *_ in items], tokenizer)
    batch.sam_pixels = torch.stack([frame for _, frame, _, _ in items])
    batch.sam_sizes = [size for _, _, size, _ in items]
    batch.clip_pixels = torch.stack([view for *_, view in items])
    batch.images = []
    return batch
