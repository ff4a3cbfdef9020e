"""Commands written for the original run as they are: its flags, its spellings, its defaults."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

import demo
import merge_lora_weight
import test_read
import train_read
from dataset.toy.world import write_world
from tests.conftest import MICRO_SAM
from utils.files import read_lines
from utils.training.run_log import METRICS_FILE

pytestmark = pytest.mark.slow

TRAIN = """
--local_rank=0 --version="PATH_TO_LLaVA" --precision=bf16 --image_size=1024 --model_max_length=512
--lora_r=8 --vision-tower="openai/clip-vit-large-patch14-336" --load_in_8bit --load_in_4bit=False
--dataset="sem_seg||refer_seg||correct_refer_seg||vqa||neg_refer_seg||reason_seg"
--sample_rates="10,1,1,1,1,10"
--sem_seg_data="ade20k||cocostuff||pascal_part||paco_lvis||mapillary"
--refer_seg_data="refclef||refcoco||refcoco+||refcocog"
--neg_refer_seg_data="R-refcocog||R-refcoco||R-refcoco+"
--correct_refer_seg_data="fprefcocog||fprefcoco||fprefcoco+"
--vqa_data="llava_instruct_150k" --reason_seg_data="ReasonSeg|train"
--val_dataset="ReasonSeg|val" --val_split="val" --dataset_dir='./dataset_folder'
--log_base_dir="./runs" --exp_name="read" --epochs=10 --steps_per_epoch=500 --batch_size=2
--grad_accumulation_steps=10 --val_batch_size=1 --workers=4 --lr=0.0003 --ce_loss_weight=1.0
--dice_loss_weight=0.5 --bce_loss_weight=2.0 --lora_alpha=16 --lora_dropout=0.05
--lora_target_modules="q_proj,v_proj" --beta1=0.9 --beta2=0.95 --num_classes_per_sample=3
--no_eval=False --eval_only=False --vision_pretrained="PATH_TO_SAM_ViT-H" --out_dim=256 --resume=""
--print_freq=1 --start_epoch=0 --gradient_checkpointing --train_mask_decoder --use_mm_start_end
--auto_resume --use_wandb=False --use_released_param=True --conv_type="llava_v1"
"""
TEST = """
--cmd=inference --local_rank=0 --process_num=0 --world_size=1
--pretrained_model_path="PATH_TO_READ" --vis_save_path="./vis_output" --image_size=1024
--model_max_length=512 --val_dataset="fprefcoco|unc|val" --dataset_dir="./dataset_folder"
--vision-tower="openai/clip-vit-large-patch14-336" --conv_type="llava_v1"
"""
DEMO = """
--vision-tower="openai/clip-vit-large-patch14-336" --local-rank=0
--pretrained_model_path="PATH_TO_READ" --vis_save_dir="./vis_output" --image_size=1024
--model_max_length=512 --conv_type="llava_v1"
"""
ENTRIES = {"train": (train_read.main, TRAIN), "test": (test_read.main, TEST)} | {
    "demo": (demo.main, DEMO)
}
SWITCHES = (
    "load_in_8bit", "load_in_4bit", "eval_only", "gradient_checkpointing", "train_mask_decoder",
    "use_mm_start_end", "auto_resume", "use_wandb", "use_released_param",
)  # fmt: skip
"""Those of training; `no_eval` has no opposite."""
IS_OFF = {"", "False"}


def dry_run(entry: Callable, arguments: list[str], capsys) -> dict:
    """The configuration that a command resolves to; mistakes but missing paths are refused."""
    with pytest.raises(SystemExit) as left:
        entry([*arguments, "--dry_run"])
    said = capsys.readouterr()
    assert left.value.code == 0, said.err
    return yaml.safe_load(said.out)


def given(arguments: str) -> dict[str, str]:
    """Flag -> text behind its `=`; "True" where there is none."""
    pairs = [word[2:].partition("=") for word in shlex.split(arguments)]
    return {name.replace("-", "_"): value if sign else "True" for name, sign, value in pairs}


@pytest.mark.parametrize("name", ENTRIES)
def test_every_flag_with_its_default(name, capsys):
    entry, arguments = ENTRIES[name]
    found = dry_run(entry, shlex.split(arguments), capsys)
    for flag, text in given(arguments).items():
        value = found[flag]
        if isinstance(value, bool):
            assert value is (text not in IS_OFF), flag
        elif isinstance(value, float):
            assert value == float(text), flag
        else:
            assert ("" if value is None else str(value)) == text, flag


@pytest.mark.parametrize("name", ENTRIES)
def test_values_behind_a_space(name, capsys):
    entry, arguments = ENTRIES[name]
    words = [part for word in shlex.split(arguments) for part in word.split("=", 1)]
    assert dry_run(entry, words, capsys) == dry_run(entry, shlex.split(arguments), capsys)


@pytest.mark.parametrize("flag", SWITCHES)
def test_switches_in_every_form(flag, capsys):
    def value(*words: str) -> bool:
        needed = "--vision_pretrained=PATH_TO_SAM_ViT-H"
        return dry_run(train_read.main, [needed, *words], capsys)[flag]

    assert value(f"--{flag}") is value(f"--{flag}=True") is value(f"--{flag}", "True") is True
    assert value(f"--no_{flag}") is value(f"--{flag}=False") is value(f"--{flag}", "False") is False


def test_no_eval_in_every_form(capsys):
    def value(*words: str) -> bool:
        return dry_run(train_read.main, list(words), capsys)["no_eval"]

    assert value("--no_eval") is value("--no_eval=True") is True
    assert value() is value("--no_eval=False") is value("--no_eval", "False") is False


@pytest.fixture(scope="module")
def places(tmp_path_factory, micro_parts) -> dict[str, str]:
    """What stands for the paths of a command; everything is small."""
    folder = tmp_path_factory.mktemp("original")
    return {
        "LLaVA": str(micro_parts.llava),
        "SAM": str(micro_parts.sam),
        "CLIP": str(micro_parts.clip),
        "DATA": str(write_world(folder / "dataset_folder", 12, 2)),
        "RUNS": str(folder / "runs"),
        "OUT": str(folder / "vis_output"),
        "SIZES": json.dumps({k: v for k, v in MICRO_SAM.items() if k != "image_size"}),
    }


def run(command: str, places: dict[str, str]) -> int:
    """Run what stands behind the entry point's name, in this process."""
    words = shlex.split(command.format(**places))
    place = next(n for n, word in enumerate(words) if word.endswith(".py"))
    entry = {"train_read.py": train_read, "test_read.py": test_read, "demo.py": demo}[words[place]]
    try:
        return entry.main(words[place + 1 :])
    except SystemExit as left:
        return int(left.code or 0)


TRAINING = """
deepspeed --master_port=24999 train_read.py --version="{LLaVA}" --dataset_dir='{DATA}'
  --vision_pretrained="{SAM}" --vision-tower="{CLIP}" --log_base_dir="{RUNS}" --exp_name="original"
  --dataset="sem_seg||refer_seg||correct_refer_seg||vqa||neg_refer_seg||reason_seg"
  --sample_rates="10,1,1,1,1,10" --val_dataset="ReasonSeg|val" --lora_r=8 --lr=0.0001
  --batch_size=2 --grad_accumulation_steps=2 --num_classes_per_sample=3 --model_max_length=512
  --epochs=1 --steps_per_epoch=2 --use_released_param=True --auto_resume --workers=0
  --out_dim=32 --image_size=64 --sam='{SIZES}'
"""
"""The last line tells the sizes of the small SAM."""
INFERENCE = """
python test_read.py --cmd=inference --local_rank=0 --process_num=0 --world_size=1
  --dataset_dir '{DATA}' --pretrained_model_path="{RUNS}/original/merged" --vis_save_path="{OUT}/x"
  --val_dataset="fprefcoco|unc|val" --max_new_tokens=3
"""


@pytest.fixture(scope="module")
def trained(places) -> Path:
    assert run(TRAINING, places) == 0
    return Path(places["RUNS"]) / "original"


def test_training_and_validation(trained, places):
    assert run(TRAINING + " --eval_only", places) == 0
    lines = read_lines(trained / METRICS_FILE)
    assert [(line["step"], line.get("eval_only", False)) for line in lines] == [(2, False)] + [
        (2, True)
    ]
    assert lines[0]["ciou"] == pytest.approx(lines[1]["ciou"], abs=1e-6)


def test_merging_evaluation_and_demo(trained, places, capsys, monkeypatch):
    assert merge_lora_weight.main(["--exp_dir", str(trained)]) == 0
    assert run(INFERENCE, places) == 0
    out = Path(places["OUT"])
    first = json.loads((out / "x" / "metrics.json").read_text())
    assert run("python test_read.py --cmd=metrics --vis_save_path={OUT}/x", places) == 0
    assert json.loads((out / "x" / "metrics.json").read_text()) == first

    image = next(Path(places["DATA"]).glob("reason_seg/ReasonSeg/val/*.jpg"))
    typed = iter([str(image), "Where is it?"])
    monkeypatch.setattr("builtins.input", lambda _: next(typed, "quit"))
    capsys.readouterr()
    command = "python demo.py --pretrained_model_path='{RUNS}/original/merged'"
    assert run(f"{command} --vis_save_dir='{{OUT}}/demo' --max_new_tokens=3", places) == 0
    assert "Say:" in capsys.readouterr().out
