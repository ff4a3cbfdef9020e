"""Fixtures: a READ so small that a training step takes a moment, and data for it."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from transformers import CLIPVisionConfig, CLIPVisionModel

from tests.browser import DESKTOP, Visit, open_chromium

REPOSITORY = Path(__file__).resolve().parent.parent
TOKENIZER = REPOSITORY / "tests" / "data" / "golden" / "released_tiny"
MICRO_SAM = {
    "embed_dim": 16,
    "depth": 1,
    "num_heads": 2,
    "global_attn_indexes": [0],
    "image_size": 64,
    "prompt_dim": 32,
}


def wants_gpu(markers: str) -> bool:
    """Whether the expression after pytest's -m asks for tests marked `gpu`."""
    return re.search(r"(?<!not )\bgpu\b", markers) is not None


def pytest_configure(config: pytest.Config) -> None:
    """Hide GPUs, unless tests for them are asked for: the others compare with figures of a CPU."""
    if not wants_gpu(config.option.markexpr):
        os.environ["CUDA_VISIBLE_DEVICES"] = ""


@pytest.hookimpl(tryfirst=True)  # before -m chooses by marker
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Tests in a browser are `slow`; those marked `gpu` run with -m gpu alone, if there is one."""
    for item in items:
        if "chromium" in getattr(item, "fixturenames", ()):
            item.add_marker("slow")
    if wants_gpu(config.option.markexpr) and torch.cuda.is_available():
        return
    left_out = [item for item in items if item.get_closest_marker("gpu")]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if item not in left_out]


@dataclass(frozen=True)
class MicroParts:
    """Folders and files as a user would have them.

    Args:
        llava: LLaVA-1.5 layout, without `[SEG]`, SAM or projection weights.
        clip: CLIP folder.
        sam: SAM's own `.pth`.
    """

    llava: Path
    clip: Path
    sam: Path


def write_micro_parts(folder: Path) -> MicroParts:
    """Write random CLIP, SAM and LLaVA parts in their real layouts."""
    torch.manual_seed(0)
    clip = folder / "clip"
    CLIPVisionModel(
        CLIPVisionConfig(
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            image_size=56,
            patch_size=14,
            projection_dim=16,
        )
    ).save_pretrained(clip)
    size = {"height": 56, "width": 56}
    processor = {"size": {"shortest_edge": 56}, "crop_size": size, "do_normalize": True}
    (clip / "preprocessor_config.json").write_text(
        json.dumps({"image_processor_type": "CLIPImageProcessor", **processor})
    )
    return MicroParts(_write_llava(folder / "llava", clip), clip, _write_sam(folder / "sam.pth"))


def _write_llava(folder: Path, clip: Path) -> Path:
    from model.read_model import ReadConfig, ReadForCausalLM

    folder.mkdir()
    for path in TOKENIZER.iterdir():
        if path.name in ("tokenizer.model", "tokenizer_config.json", "special_tokens_map.json"):
            shutil.copy(path, folder)
    sizes = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "vocab_size": 800,
        "max_position_embeddings": 1024,
        "rms_norm_eps": 1e-5,
        "mm_hidden_size": 16,
    }
    model = ReadForCausalLM(ReadConfig(**sizes, out_dim=32, sam=MICRO_SAM))
    fresh = ("model.visual_model.", "model.text_hidden_fcs.", "model.vision_tower.")
    state = {k: v for k, v in model.state_dict().items() if not k.startswith(fresh)}
    torch.save(state, folder / "pytorch_model.bin")
    config = {
        "model_type": "llava",
        "mm_vision_tower": str(clip),
        "mm_projector_type": "mlp2x_gelu",
        "mm_vision_select_layer": -2,
        "mm_use_im_start_end": False,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
        **sizes,
    }
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def _write_sam(path: Path) -> Path:
    from model.sam import SamModel, sam_sizes

    torch.save(SamModel(sam_sizes(MICRO_SAM)).state_dict(), path)
    return path


def write_reason_seg(folder: Path, images: dict[str, int], seed: int = 0) -> Path:
    """Write images of one bright rectangle each in ReasonSeg's layout; returns the data folder.

    Args:
        images: split -> number of images.
    """
    rng = np.random.default_rng(seed)
    for split, count in images.items():
        target = folder / "reason_seg" / "ReasonSeg" / split
        target.mkdir(parents=True)
        for number in range(count):
            height, width = int(rng.integers(40, 64)), int(rng.integers(40, 64))
            image = rng.integers(0, 80, (height, width, 3), dtype=np.uint8)
            x, y = int(rng.integers(2, width // 2)), int(rng.integers(2, height // 2))
            right, low = x + width // 3, y + height // 3
            image[y:low, x:right] = (250, 40, 40)
            Image.fromarray(image).save(target / f"{number:03d}.jpg", quality=95)
            corners = [[x, y], [right - 1, y], [right - 1, low - 1], [x, low - 1]]
            annotation = {
                "shapes": [{"label": "target", "points": corners}],
                "text": ["the red block", "the block"],
                "is_sentence": False,
                "false_premise_QA": [["the blue fish", False, "Sorry, there is no fish."]],
            }
            (target / f"{number:03d}.json").write_text(json.dumps(annotation))
    return folder


@pytest.fixture(scope="session")
def micro_parts(tmp_path_factory: pytest.TempPathFactory) -> MicroParts:
    """Random CLIP, SAM and LLaVA parts, written once."""
    return write_micro_parts(tmp_path_factory.mktemp("micro"))


@pytest.fixture(scope="session")
def micro_merged(micro_parts: MicroParts, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A READ folder as `merge_lora_weight.sh` writes it."""
    from model import SaspParams
    from model.loading.builder import build_for_training, save_model
    from utils.cli.train_flags import ModelOptions

    folder = tmp_path_factory.mktemp("merged")
    start = ModelOptions(
        version=str(micro_parts.llava),
        vision_tower=str(micro_parts.clip),
        vision_pretrained=str(micro_parts.sam),
        sam=MICRO_SAM,
        out_dim=32,
        precision="fp32",
    )
    model, tokenizer, _ = build_for_training(start, SaspParams(down_sample=1))
    save_model(model, tokenizer, folder)
    return folder


@pytest.fixture(scope="session")
def micro_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder with ReasonSeg splits train (8), val (5) and test (2)."""
    return write_reason_seg(tmp_path_factory.mktemp("data"), {"train": 8, "val": 5, "test": 2})


@pytest.fixture(scope="session")
def micro_settings(micro_parts: MicroParts, micro_data: Path) -> dict:
    """Training settings of the micro model; runs of 4 steps in 2 epochs."""
    return {
        "version": str(micro_parts.llava),
        "vision_tower": str(micro_parts.clip),
        "vision_pretrained": str(micro_parts.sam),
        "sam": MICRO_SAM,
        "out_dim": 32,
        "precision": "fp32",
        "dataset": "reason_seg",
        "dataset_dir": str(micro_data),
        "templates": "simple",
        "epochs": 2,
        "steps_per_epoch": 2,
        "batch_size": 2,
        "grad_accumulation_steps": 2,
        "warmup_steps": 2,
        "lr": 0.001,
        "lora_r": 4,
        "sasp_down_sample": 1,
        "workers": 1,
    }


@pytest.fixture
def write_preset(tmp_path: Path, micro_settings: dict) -> Callable[..., Path]:
    """A function that writes a preset of the micro model, with changes, and returns its path."""

    def write(**changes) -> Path:
        path = tmp_path / "preset.yaml"
        settings = {**micro_settings, "log_base_dir": str(tmp_path / "runs"), **changes}
        path.write_text(yaml.safe_dump(settings))
        return path

    return write


@pytest.fixture(scope="module")
def chromium() -> Iterator:
    """A running browser; see `tests.browser`."""
    with open_chromium() as browser:
        yield browser


@pytest.fixture
def visit(chromium) -> Iterator[Callable[..., Visit]]:
    """A function that opens a fresh page, `width` CSS pixels wide, and loads `url` in it."""
    contexts = []

    def open_page(url: str | None = None, width: int = DESKTOP, height: int = 900) -> Visit:
        viewport = {"width": width, "height": height}
        contexts.append(chromium.new_context(viewport=viewport, accept_downloads=True))
        visit = Visit(contexts[-1].new_page())
        if url is not None:
            visit.page.goto(url)
        return visit

    yield open_page
    for context in contexts:
        context.close()
