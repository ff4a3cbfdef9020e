"""Trained weights as DeepSpeed's zero_to_fp32.py writes them, put into a model with LoRA in place.

The names are those of the model that DeepSpeed held: peft's wrapping before them, `base_layer`
inside them or not, as the release of peft had it. The file may hold every weight (the original's)
or the trained ones alone (this project's checkpoints).
"""

from __future__ import annotations

import re
from pathlib import Path

import torch
from peft import PeftModel

from model.loading.load_report import LoadReport, make_report
from model.loading.lora import unwrap
from model.loading.missing_weights import is_expected, some
from model.loading.weights import misfit, read_tensors, weight_files
from model.read_model import TOWER_PREFIX, ReadForCausalLM
from utils.errors import InputError

_WRAPPING = re.compile(r"^(module\.)?(base_model\.model\.)?")


def plain_name(name: str) -> str:
    """A tensor's name without what DeepSpeed and peft add; that of LoRA's own tensors stays."""
    return _WRAPPING.sub("", name).replace(".base_layer.", ".")


def fill_trained(model: PeftModel | ReadForCausalLM, source: Path) -> LoadReport:
    """Put the weights of a file in; prints and returns where each part came from.

    Args:
        model: as `model.loading.lora.add_lora` returns it.
        source: a `.bin` or `.safetensors` file, or a folder of them with an index.

    Raises:
        InputError: trained parts are missing, or there are others, or they have other sizes.
    """
    read = unwrap(model)
    own = {plain_name(name): name for name in read.state_dict()}
    state = read.state_dict(keep_vars=True)
    trained = {plain_name(name) for name, p in read.named_parameters() if p.requires_grad}
    place: dict[str, Path | str] = dict.fromkeys(state, "the model of --version")
    if read.model.vision_tower is not None:
        tower = [name for name in state if name.startswith(TOWER_PREFIX)]
        place |= dict.fromkeys(tower, read.model.vision_tower.source)
    unexpected: list[str] = []
    misfits: list[str] = []
    for file in weight_files(source) if source.is_dir() else [source]:
        for stored, tensor in read_tensors(file):
            plain = plain_name(stored)
            if plain not in own:
                unexpected += [] if is_expected(plain) else [stored]
                continue
            target = state[own[plain]]
            trained.discard(plain)
            if tensor.shape != target.shape:
                misfits.append(misfit(stored, tensor.shape, target.shape))
            elif not is_expected(plain):
                with torch.no_grad():
                    target.copy_(tensor)
                place[own[plain]] = file
    wrong = [
        f"{len(names)} {what}: {some(names, 3)}"
        for what, names in (
            ("missing", trained), ("unexpected", unexpected), ("of another size", misfits),
        )
        if names
    ]  # fmt: skip
    if wrong:
        raise InputError(
            f"{source} does not fit the model that the flags describe; {'; '.join(wrong)}. Give "
            "the --version, --lora_r, --lora_target_modules and --out_dim of its training"
        )
    report = make_report(read, place, {})
    print("\n".join(report.lines()), flush=True)
    return report
