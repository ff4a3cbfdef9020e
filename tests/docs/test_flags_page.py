"""`docs/flags.md` says of every flag of the original what its default is there and here."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest
import yaml

from utils.cli.options import DemoOptions, OriginalMergeOptions, TestOptions, TrainOptions

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "flags.md").read_text("utf-8")
TRAIN = """
local_rank version precision image_size model_max_length lora_r vision_tower load_in_8bit
load_in_4bit dataset sample_rates sem_seg_data refer_seg_data neg_refer_seg_data
correct_refer_seg_data vqa_data reason_seg_data val_dataset val_split dataset_dir log_base_dir
exp_name epochs steps_per_epoch batch_size grad_accumulation_steps val_batch_size workers lr
ce_loss_weight dice_loss_weight bce_loss_weight lora_alpha lora_dropout lora_target_modules beta1
beta2 num_classes_per_sample no_eval eval_only vision_pretrained out_dim resume print_freq
start_epoch gradient_checkpointing train_mask_decoder use_mm_start_end auto_resume use_wandb
use_released_param conv_type
"""
TEST = """
cmd local_rank process_num world_size pretrained_model_path vis_save_path image_size
model_max_length val_dataset dataset_dir vision_tower conv_type
"""
DEMO = """
vision_tower local_rank pretrained_model_path vis_save_dir image_size model_max_length conv_type
"""
MERGE = """
version vis_save_path precision vision_pretrained out_dim image_size model_max_length vision_tower
lora_r lora_alpha lora_dropout lora_target_modules local_rank train_mask_decoder use_mm_start_end
conv_type weight save_path
"""
ENTRIES = {
    "train_read.py": (TrainOptions, TRAIN),
    "test_read.py": (TestOptions, TEST),
    "demo.py": (DemoOptions, DEMO),
    "merge_lora_weights_and_save_hf_model.py": (OriginalMergeOptions, MERGE),
}


def rows(entry: str) -> dict[str, list[str]]:
    """Flag -> its cells: original, known from, ours, preset, why."""
    section = PAGE.split(f"\n## {entry}\n")[1].split("\n## ")[0]
    found = {}
    for line in section.splitlines():
        if line.startswith("| `"):
            cells = [cell.strip().strip("`") for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
            found[cells[0]] = [cell.replace("\\|", "|") for cell in cells[1:]]
    return found


@pytest.mark.parametrize("entry", ENTRIES)
def test_every_flag_of_the_original_with_both_defaults(entry):
    options, names = ENTRIES[entry]
    defaults = {item.name: item.default for item in dataclasses.fields(options)}
    found = rows(entry)
    assert found.keys() == set(names.split())
    for name, (theirs, known, ours, _, why) in found.items():
        value = defaults[name]
        assert ours == ("none" if value is None else str(value)), name
        assert known in ("LISA", "unsure", "unknown") and (theirs == "?") == (known == "unknown")
        # What differs says why; what is equal or unknown has nothing to say.
        assert bool(why) == (theirs not in ("?", ours)), name


def test_presets_set_what_is_published():
    presets = [yaml.safe_load(p.read_text("utf-8")) for p in (ROOT / "configs").glob("read_*.yaml")]
    assert len(presets) == 5
    in_all = set.intersection(*map(set, presets))
    found = rows("train_read.py")
    assert {name for name, cells in found.items() if cells[3] == "set"} == in_all & set(found)
    shaping = {"version", "vision_tower", "dataset", "sample_rates", "lr", "epochs", "lora_r"}
    assert shaping <= in_all
