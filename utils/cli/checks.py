"""Checks that several options classes share. Each returns the problems found, never raises."""

from __future__ import annotations

import importlib.util
import json
import os
import re
from importlib import metadata
from pathlib import Path
from typing import Any

from utils.cli.parser import Problem, locate, suggest
from utils.protocol.constants import IMAGE_POSITIONS
from utils.protocol.sam_sizes import SAM_FIELDS, SAM_PATCH, SAM_PRESETS, SAM_REQUIRED


def folder(name: str, value: str | None, what: str, remedy: str) -> list[Problem]:
    """`--name` has to be an existing folder that holds `what`."""
    if value and os.path.isdir(value):
        return []
    state = "is a file, not a folder" if value and os.path.exists(value) else "does not exist"
    return [Problem(f"--{name}={value}: {state}; expected {what}; {remedy}", missing=True)]


def file(name: str, value: str | None, what: str, remedy: str) -> list[Problem]:
    """`--name` has to be an existing file that holds `what`."""
    if value and os.path.isfile(value):
        return []
    state = "is not a file" if value and os.path.exists(value) else "does not exist"
    return [Problem(f"--{name}={value}: {state}; expected {what}; {remedy}", missing=True)]


def is_hub_id(value: str) -> bool:
    """`owner/name` whose owner is no folder here: a name on the model hub, not a path."""
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*/[\w.-]+", value):
        return False
    return not os.path.isdir(locate(value.split("/")[0]))


def model_folder(name: str, value: str, what: str) -> list[Problem]:
    """`--name` has to be a folder with a `config.json`, or a hub id (tried when loading)."""
    if is_hub_id(value) and not os.path.exists(value):
        return []
    remedy = "give a folder that exists, or a hub id OWNER/NAME"
    if problems := folder(name, value, what, remedy):
        return problems
    if not os.path.isfile(os.path.join(value, "config.json")):
        return [Problem(f"--{name}={value}: holds no config.json; expected {what}; {remedy}", True)]
    return []


def model_config(path: str) -> dict[str, Any]:
    """`config.json` of a model folder; empty if there is none that can be read."""
    try:
        content = json.loads((Path(path) / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def package(name: str, flag: str) -> list[Problem]:
    """The optional package that `flag` needs has to be installed."""
    if importlib.util.find_spec(name):
        return []
    return [Problem(f"--{flag} needs the package {name}: pip install {name}", missing=True)]


def web(options: Any) -> list[Problem]:
    """What a page in the browser needs."""
    problems: list[Problem] = []
    if options.image is not None or options.prompt is not None:
        problems.append(Problem("--web excludes --image and --prompt: both are given on the page"))
    if not 0 <= options.port <= 65535:
        problems.append(Problem(f"--port={options.port}: give 0 to 65535, 0 for a free one"))
    version = metadata.version("gradio") if importlib.util.find_spec("gradio") else "none"
    if version.partition(".")[0] != "6":
        problems.append(
            Problem(
                f"--web needs gradio 6, there is {version}: pip install -r requirements-web.txt",
                missing=True,
            )
        )
    return problems


def sasp(options: Any) -> list[Problem]:
    """Ranges of the SasP settings; None means: what the checkpoint stores."""
    problems: list[Problem] = []
    t_pos, t_neg = options.sasp_t_pos, options.sasp_t_neg
    for name, value in (("sasp_t_pos", t_pos), ("sasp_t_neg", t_neg)):
        if value is not None and not 0 <= value <= 1:
            problems.append(Problem(f"--{name}={value}: give a number from 0 to 1"))
    if t_pos is not None and t_neg is not None and t_neg >= t_pos:
        problems.append(
            Problem(
                f"--sasp_t_neg={t_neg} is not below --sasp_t_pos={t_pos}; lower it or raise that"
            )
        )
    return problems


def sam(value: str | dict[str, Any] | None, image_size: int | None) -> list[Problem]:
    """`--sam`: a name, or a mapping with every size of the image encoder."""
    if image_size is not None and (image_size <= 0 or image_size % SAM_PATCH):
        return [Problem(f"--image_size={image_size}: give a multiple of {SAM_PATCH}, such as 1024")]
    if isinstance(value, str) and value not in SAM_PRESETS:
        return [
            Problem(
                f"--sam={value}: give one of {', '.join(SAM_PRESETS)} or a mapping with "
                f"{', '.join(SAM_REQUIRED)}"
            )
        ]
    if not isinstance(value, dict):
        if image_size in (None, 1024):
            return []
        return [
            Problem(
                f"--image_size={image_size}: {value or 'vit_h'} sees 1024 pixels; "
                "write --sam as a mapping that holds image_size to change it"
            )
        ]
    problems = [
        Problem(
            f"--sam: unknown key {key!r}{suggest(str(key), SAM_FIELDS)}; allowed: "
            + ", ".join(SAM_FIELDS)
        )
        for key in value
        if key not in SAM_FIELDS
    ]
    problems += [Problem(f"--sam: {key} is missing") for key in SAM_REQUIRED if key not in value]
    inside = value.get("image_size", image_size)
    if image_size not in (None, 1024, inside):
        problems.append(
            Problem(f"--image_size={image_size} but --sam says image_size {inside}; give one")
        )
    return problems


def quantization(load_in_4bit: bool, load_in_8bit: bool) -> list[Problem]:
    """Loading in 4 or 8 bits: one of them, and the package it needs."""
    if load_in_4bit and load_in_8bit:
        return [Problem("--load_in_4bit and --load_in_8bit exclude each other; give one")]
    if load_in_4bit or load_in_8bit:
        return package("bitsandbytes", "load_in_4bit" if load_in_4bit else "load_in_8bit")
    return []


def attention(options: Any) -> list[Problem]:
    """`--attn_implementation flash_attention_2`: 16 bits, and the package that has it."""
    if options.attn_implementation != "flash_attention_2":
        return []
    problems = []
    if options.precision == "fp32":
        problems.append(
            Problem(
                "--attn_implementation=flash_attention_2 computes in bf16 or fp16, not in "
                "--precision=fp32; give --precision=bf16 or --attn_implementation=sdpa"
            )
        )
    if importlib.util.find_spec("kernels") is None:  # the other package that may have it
        problems += package("flash_attn", "attn_implementation=flash_attention_2")
    return problems


def upload(options: Any) -> list[Problem]:
    """`--push_to_hub` is a name that the hub takes; `--private` needs it."""
    repo = options.push_to_hub
    if repo is None:
        text = "--private needs --push_to_hub: the repository OWNER/NAME to upload to"
        return [Problem(text)] if options.private else []
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(repo)
    except HFValidationError as error:
        return [Problem(f"--push_to_hub={repo}: give OWNER/NAME ({error})")]
    if "/" not in repo:
        return [Problem(f"--push_to_hub={repo}: give OWNER/NAME, with your name on the hub")]
    return []


def text_length(options: Any) -> list[Problem]:
    """`--model_max_length` has to leave room beside the image."""
    if options.model_max_length > IMAGE_POSITIONS:
        return []
    return [
        Problem(
            f"--model_max_length={options.model_max_length}: the image counts as "
            f"{IMAGE_POSITIONS} tokens; give more, such as 512"
        )
    ]
