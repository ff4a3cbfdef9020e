"""The options of the entry points: the original's flags, and checks that name the remedy."""

from __future__ import annotations

from pathlib import Path

import pytest

from dataset.flag_checks import evaluation_flags, mixture, selection, training_flags
from utils.cli.flags import flags_of
from utils.cli.options import DemoOptions, MergeOptions, TestOptions, TrainOptions, given_sasp
from utils.cli.parser import REPOSITORY, Check, resolve
from utils.protocol.sasp_params import SaspParams

ORIGINAL_TRAIN = (
    "local_rank version precision image_size model_max_length lora_r vision_tower "
    "load_in_8bit load_in_4bit dataset sample_rates sem_seg_data refer_seg_data neg_refer_seg_data "
    "correct_refer_seg_data vqa_data reason_seg_data val_dataset val_split dataset_dir "
    "log_base_dir exp_name epochs steps_per_epoch batch_size grad_accumulation_steps "
    "val_batch_size workers lr "
    "ce_loss_weight dice_loss_weight bce_loss_weight lora_alpha lora_dropout lora_target_modules "
    "beta1 beta2 num_classes_per_sample no_eval eval_only vision_pretrained out_dim resume "
    "print_freq "
    "start_epoch gradient_checkpointing train_mask_decoder use_mm_start_end auto_resume use_wandb "
    "use_released_param conv_type "
)
ORIGINAL_TEST = (
    "cmd local_rank process_num world_size pretrained_model_path vis_save_path "
    "image_size model_max_length val_dataset dataset_dir vision_tower conv_type "
)
ORIGINAL_DEMO = (
    "vision_tower local_rank pretrained_model_path vis_save_dir image_size "
    "model_max_length conv_type "
)


CHECKS: dict[type, list[Check]] = {
    TrainOptions: [training_flags],
    TestOptions: [evaluation_flags],
}
"""What the entry points bring."""


def messages(cls, *argv: str, missing: bool | None = None) -> list[str]:
    problems = resolve(cls, list(argv), checks=CHECKS.get(cls, []))[1]
    return [p.message for p in problems if missing is None or p.missing == missing]


@pytest.mark.parametrize(
    ("cls", "names"),
    [(TrainOptions, ORIGINAL_TRAIN), (TestOptions, ORIGINAL_TEST), (DemoOptions, ORIGINAL_DEMO)],
)
def test_every_flag_of_the_original(cls, names):
    assert set(names.split()) <= set(flags_of(cls))


@pytest.mark.parametrize("cls", [TrainOptions, TestOptions, DemoOptions, MergeOptions])
def test_every_flag_has_help_and_a_group(cls):
    for flag in flags_of(cls).values():
        assert flag.help and flag.group


@pytest.mark.parametrize("cls", [TrainOptions, TestOptions, DemoOptions])
def test_defaults_have_no_mistake(cls):
    assert messages(cls, missing=False) == []


@pytest.mark.parametrize("preset", sorted((REPOSITORY / "configs").glob("*.yaml")))
def test_shipped_presets_have_no_mistake(preset):
    options = TestOptions if preset.name.startswith("eval_") else TrainOptions
    assert messages(options, "--config", str(preset), missing=False) == []


RECIPES = {
    "read_7b": (30, 0.8, 0.2, 2, 8, 1e-4, 0.5, "10,1,1,1,1,10"),
    "read_7b_referseg": (30, 0.8, 0.2, 2, 8, 1e-4, 0.5, "12,2,2,1"),
    "read_7b_scratch": (30, 0.8, 0.2, 2, 64, 1e-4, 4.0, "10,1,1,1,1,10"),
    "read_13b_stage1": (10, 0.8, 0.2, 1, 64, 3e-4, 0.5, "10,10,2,3,1,1"),
    "read_13b_stage2": (30, 0.8, 0.2, 1, 64, 1e-4, 0.5, "3,10,2,3,1,10"),
}
"""Points, t_pos, t_neg, down_sample, rank, rate, DICE weight, rates: as published."""


@pytest.mark.parametrize("name", RECIPES)
def test_published_recipes(name):
    found, _, _, _ = resolve(TrainOptions, ["--config", str(REPOSITORY / f"configs/{name}.yaml")])
    sasp = given_sasp(found)
    points = tuple(sasp[key] for key in ("num_points", "t_pos", "t_neg", "down_sample"))
    rest = (found.lora_r, found.lr, found.dice_loss_weight, found.sample_rates)
    assert points + rest == RECIPES[name]
    assert found.use_released_param is (name != "read_7b_scratch")
    new_parts = name in ("read_7b_scratch", "read_13b_stage1")
    assert (found.vision_pretrained is not None) is new_parts
    assert found.total_steps == 4000 and found.zero_stage == 2 and found.precision == "bf16"


@pytest.mark.parametrize(
    ("name", "points"), [("7b", (30, 0.8, 0.2, 2)), ("13b", (60, 0.6, 0.2, 1))]
)
def test_evaluation_presets(name, points):
    given = ["--config", str(REPOSITORY / f"configs/eval_{name}.yaml")]
    found, _, _, _ = resolve(TestOptions, given)
    sasp = given_sasp(found)
    assert tuple(sasp[key] for key in ("num_points", "t_pos", "t_neg", "down_sample")) == points
    assert (found.eval_mode, found.templates) == ("teacher_forced", "simple")


@pytest.fixture
def usable(write_preset) -> list[str]:
    """Flags of a training that could start."""
    return ["--config", str(write_preset())]


def test_a_usable_training_has_no_problem(usable):
    assert messages(TrainOptions, *usable) == []


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("--dataset=reason_sge", ["unknown data set 'reason_sge'", "did you mean reason_seg"]),
        (
            "--dataset=sem_seg||reason_seg",
            ["ade20k is not complete", "no ade20k/images/training", "MIT"],
        ),
        ("--dataset=reason_seg||reason_seg", ["names reason_seg twice"]),
        ("--dataset=mine", ["unknown data set 'mine'", "own/NAME"]),
        ("--dataset=../reason_seg", ["unknown data set '../reason_seg'"]),
        ("--dataset=vqa", ["no llava_dataset/llava_instruct_150k.json", "LLaVA"]),
        ("--val_dataset=refcoco|val", ["no refer_seg/refcoco/instances.json", "REFER"]),
        ("--val_dataset=refcoco|unc|val", ["no refer_seg/refcoco/refs(unc).p"]),
        ("--val_dataset=refcoco|a|b|val", ["NAME|SPLIT_BY|SPLIT"]),
        ("--val_dataset=ReasonSge|val", ["unknown", "did you mean ReasonSeg"]),
        ("--val_split=nowhere", ["no reason_seg/ReasonSeg/nowhere", "LISA"]),
        ("--reason_seg_data=ReasonSeg|nowhere", ["no reason_seg/ReasonSeg/nowhere", "LISA"]),
        ("--dataset_dir=/nowhere", ["--dataset_dir=/nowhere: no such folder", "dataset.toy"]),
        ("--sample_rates=1,2", ["2 rates for 1 data sets"]),
        ("--sample_rates=a", ["numbers joined by commas"]),
        ("--sample_rates=0", ["at least one of them above 0"]),
        ("--sample_rates=nan", ["none infinite"]),
        ("--version=/nowhere", ["--version=/nowhere", "does not exist", "hub id"]),
        ("--version=nowhere", ["--version=nowhere", "hub id OWNER/NAME"]),
        ("--vision_tower=./nowhere", ["--vision_tower=./nowhere"]),
        (
            "--vision_pretrained=/nowhere.pth",
            ["--vision_pretrained=/nowhere.pth", "does not exist"],
        ),
        ("--vision_pretrained=none", ["without SAM weights", "--vision_pretrained"]),
        ("--sam=vit_x", ["--sam=vit_x", "vit_h, vit_l, vit_b"]),
        ("--sam={embed_dim: 8}", ["depth is missing"]),
        ("--image_size=100", ["multiple of 16"]),
        ("--image_size=512", ["--image_size=512", "image_size 64"]),
        ("--sasp_t_neg=0.9", ["--sasp_t_neg=0.9", "--sasp_t_pos=0.8"]),
        ("--sasp_t_pos=1.5", ["--sasp_t_pos=1.5", "from 0 to 1"]),
        ("--sasp_num_points=0", ["--sasp_num_points=0", "above 0"]),
        ("--zero_stage=4", ["--zero_stage=4", "one of 1, 2, 3"]),
        ("--lr=-1", ["--lr=-1", "above 0"]),
        ("--beta1=1", ["--beta1=1", "not including, 1"]),
        ("--lora_target_modules=", ["--lora_target_modules is empty"]),
        ("--model_max_length=200", ["--model_max_length=200", "255"]),
        ("--conv_type=vicuna", ["--conv_type=vicuna", "llava_v1"]),
        ("--templates=/nowhere.json", ["--templates=/nowhere.json", "varied, simple"]),
        ("--start_epoch=9", ["--start_epoch=9", "--epochs=2"]),
        ("--exp_name=a/b", ["--exp_name='a/b'", "not a path"]),
        ("--resume=/nowhere", ["--resume=/nowhere", "ckpt_model"]),
        ("--val_batch_size=4", ["--val_batch_size=4"]),
    ],
)
def test_a_mistake_in_training_options(usable, given, words):
    found = "\n".join(messages(TrainOptions, *usable, given))
    for word in words:
        assert word in found


def test_exclusive_flags(usable):
    assert "exclude each other" in messages(TrainOptions, *usable, "--eval_only", "--no_eval")[0]
    both = messages(TrainOptions, *usable, "--load_in_4bit", "--load_in_8bit")
    assert "exclude each other" in both[0]
    spread = messages(TrainOptions, *usable, "--zero_stage=3", "--load_in_4bit", missing=False)
    assert "cannot spread quantised weights" in spread[0]


@pytest.mark.parametrize("cls", [TrainOptions, TestOptions, DemoOptions])
def test_flash_attention_has_16_bits(cls, usable, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name == "flash_attn")
    given = usable if cls is TrainOptions else []
    flash = [*given, "--attn_implementation=flash_attention_2"]
    (told,) = messages(cls, *flash, "--precision=fp32", missing=False)
    assert "flash_attention_2 computes in bf16 or fp16" in told and "--precision=bf16" in told
    assert not messages(cls, *flash, "--precision=bf16", missing=False)
    usual = ["--attn_implementation=sdpa", "--precision=fp32"]
    assert not messages(cls, *given, *usual, missing=False)
    assert not any("flash_attn" in told for told in messages(cls, *flash))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert any("pip install flash_attn" in told for told in messages(cls, *flash))


def test_an_optional_package_that_is_not_there(usable, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert "pip install wandb" in messages(TrainOptions, *usable, "--use_wandb")[0]


def test_false_can_be_given(usable):
    options, problems, _, _ = resolve(TrainOptions, [*usable, "--use_released_param=False"])
    assert options is not None
    assert problems == [] and options.use_released_param is False


def test_fresh_sam_needs_its_weights(usable):
    found = messages(
        TrainOptions, *usable, "--no_use_released_param", "--vision_pretrained=none", missing=False
    )
    assert "--no_use_released_param needs --vision_pretrained" in found[0]


def test_mixture_takes_the_published_rates():
    assert mixture(TrainOptions()) == {
        "sem_seg": 10, "refer_seg": 1, "correct_refer_seg": 1, "vqa": 1, "neg_refer_seg": 1,
        "reason_seg": 10,
    }  # fmt: skip
    given = mixture(TrainOptions(dataset="vqa||reason_seg", sample_rates="2,3"))
    assert given == {"vqa": 2, "reason_seg": 3}


@pytest.mark.parametrize(
    ("dataset", "split", "expected"),
    [
        ("ReasonSeg|val", None, ("ReasonSeg", "val", None)),
        ("ReasonSeg", None, ("ReasonSeg", "val", None)),
        ("ReasonSeg|val", "test", ("ReasonSeg", "test", None)),
        ("refcoco|unc|testA", None, ("refcoco", "testA", "unc")),
        ("refcoco|unc|testA", "testB", ("refcoco", "testB", "unc")),
    ],
)
def test_validation_names(dataset, split, expected):
    assert selection(dataset, split) == expected


def test_sources_of_a_family(usable):
    found = messages(TrainOptions, *usable, "--dataset=refer_seg", "--refer_seg_data=recoco")
    assert "unknown source 'recoco', did you mean refcoco" in found[0]
    unused = messages(
        TrainOptions, *usable, "--dataset=refer_seg||reason_seg", "--sample_rates=0,1"
    )
    assert unused == []


def test_sets_of_ones_own(usable, tmp_path):
    (tmp_path / "own" / "birds").mkdir(parents=True)
    flags = ["--dataset_dir", str(tmp_path)]
    given = ["--dataset=birds||birds2", "--val_dataset=birds|val"]
    found = messages(TrainOptions, *usable, *flags, *given)
    assert len(found) == 1 and "unknown data set 'birds2', did you mean birds" in found[0]
    assert messages(TestOptions, *flags, "--val_dataset=birds|val", missing=False) == []


def test_parts_of_the_test_split(micro_data):
    flags = ["--dataset_dir", str(micro_data), "--val_dataset"]
    assert messages(TestOptions, *flags, "ReasonSeg|long") == []
    assert messages(TestOptions, *flags, "ReasonSeg|val_test") == []


def test_sasp_settings():
    assert TrainOptions().sasp == SaspParams()
    assert given_sasp(TestOptions(sasp_num_points=60)) == {"num_points": 60}


def test_mistakes_in_test_options(micro_data):
    flags = ["--dataset_dir", str(micro_data)]
    assert messages(TestOptions, *flags) == []
    assert "--process_num=2" in messages(TestOptions, *flags, "--process_num=2")[0]
    found = messages(TestOptions, "--cmd=metrics", "--vis_save_path=/nowhere")
    assert len(found) == 1 and "run --cmd inference first" in found[0]


def test_mistakes_in_demo_options():
    assert "--prompt needs --image" in messages(DemoOptions, "--prompt=Where?")[0]
    assert "--image=/nowhere.png" in messages(DemoOptions, "--image=/nowhere.png")[0]
    assert messages(DemoOptions, "--image=https://example.org/a.png") == []
    assert "--output_format=jpg" in messages(DemoOptions, "--output_format=jpg")[0]


def test_mistakes_in_merge_options(tmp_path: Path):
    assert "does not exist" in messages(MergeOptions, f"--exp_dir={tmp_path}/no")[0]
    found = messages(MergeOptions, f"--exp_dir={tmp_path}", f"--out={tmp_path}")
    assert "holds no config.yaml" in found[0] and "no merged model" in found[1]


def test_mistakes_in_the_name_of_the_upload(tmp_path: Path):
    (tmp_path / "config.yaml").touch()
    run = f"--exp_dir={tmp_path}"
    assert "--private needs --push_to_hub" in messages(MergeOptions, run, "--private")[0]
    for name in ("read", "me/read me", "me/read/7b"):
        found = messages(MergeOptions, run, f"--push_to_hub={name}")
        assert len(found) == 1 and f"--push_to_hub={name}: give OWNER/NAME" in found[0]
    assert messages(MergeOptions, run, "--push_to_hub=me/read-7b", "--private") == []
