"""A model in the layout of the released ones, CLIP, and a run that trained it: random weights.

Names, shapes and configuration are the released ones (`tests/data/golden`); the vocabulary is the
small one of those files, filled up with words that never occur.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from sentencepiece import sentencepiece_model_pb2
from torch import nn
from transformers import CLIPVisionConfig, CLIPVisionModel

from benchmarks.output import ROOT
from model.config import DTYPES, ReadConfig
from model.loading.lora import add_lora
from model.loading.weights import empty_model
from model.sam import sam_sizes, sam_sizes_dict
from utils.cli import parser
from utils.cli.options import TrainOptions
from utils.protocol.constants import ADDED_TOKENS
from utils.protocol.image_transforms import default_clip_processor
from utils.training import distributed, engine
from utils.training.checkpoint import CheckpointStore, RunState

GOLDEN = ROOT / "tests" / "data" / "golden"
RELEASED = GOLDEN / "released_tiny"
TOKENIZER_FILES = ("tokenizer_config.json", "special_tokens_map.json", "generation_config.json")
FIRST_SHARD = 2 / 3
"""Of all bytes: 9.9 of 14.8 GB, as released."""


@dataclass(frozen=True)
class World:
    """What is written.

    Args:
        shapes: file of `GOLDEN` with the names and shapes of all weights.
        language_model: fields of config.json that differ from the tiny release.
        clip: fields of the CLIP tower's configuration.
        sam: SAM's sizes; a released config.json does not tell them.
    """

    shapes: str
    language_model: dict[str, int]
    clip: dict[str, int]
    sam: str | dict


WORLDS = {
    "tiny": World(
        "released_tiny/shapes.json",
        {},
        {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3}
        | {"num_attention_heads": 4},
        {"embed_dim": 32, "depth": 2, "num_heads": 2, "global_attn_indexes": [1]},
    ),
    "7b": World(
        "checkpoint_keys_7b.json",
        {"hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32}
        | {"num_attention_heads": 32, "num_key_value_heads": 32, "vocab_size": 32003}
        | {"mm_hidden_size": 1024},
        {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24}
        | {"num_attention_heads": 16},
        "vit_h",
    ),
}


def write_released(folder: Path, world: World, clip: Path, dtype: str) -> int:
    """Write the model's folder: two `.bin` shards with an index, slow tokenizer files.

    Returns:
        bytes of its weights.
    """
    folder.mkdir(parents=True)
    values = json.loads((RELEASED / "config.json").read_text()) | world.language_model
    values |= {"mm_vision_tower": str(clip), "vision_tower": str(clip)}
    values |= {"torch_dtype": str(DTYPES[dtype]).removeprefix("torch.")}
    (folder / "config.json").write_text(json.dumps(values, indent=2))
    _write_tokenizer(folder, values["vocab_size"])
    shapes = json.loads((GOLDEN / world.shapes).read_text())
    width = DTYPES[dtype].itemsize
    total = sum(math.prod(shape) for shape in shapes.values()) * width
    torch.manual_seed(0)
    places: dict[str, str] = {}
    shards: list[list[str]] = [[], []]
    before = 0
    for name, shape in shapes.items():
        number = int(before >= FIRST_SHARD * total)
        shards[number].append(name)
        places[name] = f"pytorch_model-{number + 1:05d}-of-00002.bin"
        before += math.prod(shape) * width
    for names in shards:
        shard = {name: shapes[name] for name in names}
        _write_shard(folder / places[names[0]], shard, DTYPES[dtype])
    index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(places.items()))}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index, indent=2))
    return total


def write_clip(folder: Path, world: World) -> None:
    """Write a CLIP folder with its processor, as float32."""
    torch.manual_seed(1)
    sizes = CLIPVisionConfig(**world.clip, image_size=336, patch_size=14)
    CLIPVisionModel(sizes).save_pretrained(folder)
    default_clip_processor().save_pretrained(folder)


def write_run(folder: Path, model: Path, clip: Path, world: World, dtype: str) -> None:
    """Write a run folder of `train_read.py`, its checkpoint by DeepSpeed, without training.

    LoRA and the parts that train in full hold random values.
    """
    options = TrainOptions(
        version=str(model),
        vision_tower=str(clip),
        sam=world.sam,
        precision=dtype,  # type: ignore[arg-type]
        log_base_dir=str(folder.parent),
        exp_name=folder.name,
    )
    folder.mkdir(parents=True)
    parser.save(options, folder / "config.yaml")
    distributed.start(0)
    ds = engine.build_engine(
        _trained_parts(options),
        betas=(options.beta1, options.beta2),
        settings=engine.engine_settings(dtype, options.zero_stage, options.batch_size),
    )
    store = CheckpointStore(folder / "ckpt_model")
    state = RunState(step=1, world=1, best_tag="step_00000001")
    store.begin(state.tag)
    engine.save_engine(ds, store.folder, state.tag)
    store.complete(state)


def _write_shard(file: Path, shapes: dict[str, list[int]], dtype: torch.dtype) -> None:
    torch.save({name: _weight(name, shape, dtype) for name, shape in shapes.items()}, file)


def _trained_parts(options: TrainOptions) -> nn.Module:
    """A module with the parameters that a training of this configuration opens, and no others."""
    settings = ReadConfig.from_pretrained(options.version)
    settings.sam = sam_sizes_dict(sam_sizes(options.sam_settings()))
    with torch.device("meta"):
        whole = add_lora(
            empty_model(settings, torch.float32),
            options.lora_r,
            options.lora_alpha,
            options.lora_dropout,
            options.lora_target_modules,
        )
    root = nn.Module()
    torch.manual_seed(2)
    for name, parameter in whole.named_parameters():
        if parameter.requires_grad:
            *owners, leaf = name.split(".")
            module = root
            for owner in owners:
                if owner not in module._modules:
                    module.add_module(owner, nn.Module())
                module = module._modules[owner]  # type: ignore[assignment]
            value = _weight(name, list(parameter.shape), torch.float32)
            module.register_parameter(leaf, nn.Parameter(value))
    return root


def _weight(name: str, shape: list[int], dtype: torch.dtype) -> torch.Tensor:
    """Random values of a size at which activations neither vanish nor explode."""
    if name.endswith("rotary_emb.inv_freq"):
        return 1.0 / 10000 ** (torch.arange(shape[0]) / shape[0])
    value = torch.empty(shape, dtype=dtype)
    if len(shape) == 1:
        return value.zero_() if name.endswith("bias") else value.fill_(1.0)
    return value.normal_(std=math.prod(shape[1:]) ** -0.5)


def _write_tokenizer(folder: Path, vocabulary: int) -> None:
    """The slow tokenizer files, with as many words as the embeddings have rows."""
    for name in TOKENIZER_FILES:
        shutil.copy(RELEASED / name, folder)
    words = sentencepiece_model_pb2.ModelProto()
    words.ParseFromString((RELEASED / "tokenizer.model").read_bytes())
    for piece in _unused(vocabulary - len(ADDED_TOKENS) - len(words.pieces)):
        words.pieces.add(piece=piece, score=-1e6)
    (folder / "tokenizer.model").write_bytes(words.SerializeToString())
    added = {token: len(words.pieces) + i for i, token in enumerate(ADDED_TOKENS)}
    (folder / "added_tokens.json").write_text(json.dumps(added))


def _unused(count: int) -> Iterator[str]:
    return (f"\ue000{number}\ue000" for number in range(count))
