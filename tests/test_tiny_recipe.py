"""The small pre-trained parts: their layouts, their size, what they can do, and the recipe."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import CLIPVisionModel

from dataset.toy.scene import sample_scene
from model.llava import load_vision_tower
from model.loading.weight_file import load_sam_weights
from model.sam import SamModel, sam_sizes
from tiny import clip, llava, pretrain, sam
from tiny.corpus import NOTHING, draw_lesson
from tiny.images import clip_frame, sam_frame
from utils.protocol.conversation import build_prompt, user_turn
from utils.protocol.tokenization import answer_labels, encode_prompt, load_tokenizer

TINY = Path(__file__).parents[1] / "tiny"
LIMIT = 10 * 2**20


def test_all_parts_together_are_small():
    files = [path for path in TINY.rglob("*") if path.is_file() and path.suffix != ".pyc"]
    assert sum(path.stat().st_size for path in files) < LIMIT


def test_llava_has_the_layout_of_llava_and_nothing_of_read():
    config = json.loads((TINY / "llava" / "config.json").read_text())
    assert config["model_type"] == "llava" and config["mm_projector_type"] == "mlp2x_gelu"
    assert config["mm_vision_select_layer"] == -2 and not config["mm_use_im_start_end"]
    weights = load_file(TINY / "llava" / "model.safetensors")
    assert "model.mm_projector.2.weight" in weights and "lm_head.weight" in weights
    assert not [n for n in weights if "visual_model" in n or "text_hidden" in n or "lora" in n]
    tokenizer = load_tokenizer(TINY / "llava")
    assert weights["model.embed_tokens.weight"].shape[0] == len(tokenizer) - 3
    assert tokenizer.convert_ids_to_tokens([0, 1, 2]) == ["<unk>", "<s>", "</s>"]
    assert not (TINY / "llava" / "added_tokens.json").exists()


def test_the_tokenizer_spells_what_it_does_not_know():
    tokenizer = load_tokenizer(TINY / "llava")
    ids = tokenizer("Ünïque zebra 漢").input_ids
    assert tokenizer.unk_token_id not in ids
    assert tokenizer.decode(ids, skip_special_tokens=True) == "Ünïque zebra 漢"


def test_clip_names_unseen_patches():
    """Hidden state -2 is what LLaVA reads; a linear probe fitted on a few images shows it."""
    tower = load_vision_tower(TINY / "clip")
    assert tower.side == clip.CELLS
    images = clip_frame(80, seed=901, side=clip.SIDE)
    states = tower(clip.normalise(images.pixels)).flatten(0, 1)
    labels = clip.patch_labels(images, clip.patch_cover(images))
    half = len(states) // 2
    for kind in ("colour", "shape", "size"):
        truth = torch.from_numpy(labels[kind]).flatten()
        onehot = torch.nn.functional.one_hot(truth).float()
        weights = torch.linalg.lstsq(states[:half], onehot[:half]).solution
        right = (states[half:] @ weights).argmax(-1) == truth[half:]
        assert right[truth[half:] > 0].float().mean() > 0.85, kind


def test_sam_segments_unseen_things_from_points():
    model = SamModel(sam_sizes(sam.SIZES)).eval()
    load_sam_weights(model, TINY / "sam.pth")
    measured = sam.evaluate(model, sam_frame(40, seed=902, side=sam.SIZES["image_size"]))
    assert measured["iou"] > 0.85 and measured["iou_small"] > 0.8


def test_packed_conversations_equal_single_ones():
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    tokenizer = load_tokenizer(TINY / "llava")
    encoder = llava.Encoder(tokenizer)
    things = sample_scene(rng).things
    lessons = [draw_lesson(things, rng) for _ in range(5)]
    model = llava.TinyLlava(len(tokenizer) - 3).eval()
    features = torch.randn(1, 9, clip.WIDTH)
    branches = encoder.pack([lessons])
    with torch.no_grad():
        image, text = llava.forward(model, encoder.shared, features, branches)
        for number, lesson in enumerate(lessons):
            one_image, one = llava.forward(
                model, encoder.shared, features, encoder.pack([[lesson]])
            )
            assert torch.allclose(image, one_image, atol=1e-5)
            assert torch.allclose(text[0, branches.branch[0] == number], one[0], atol=1e-5)


def test_rescaling_changes_no_answer_and_no_map():
    torch.manual_seed(1)
    rng = np.random.default_rng(2)
    tokenizer = load_tokenizer(TINY / "llava")
    model = llava.TinyLlava(len(tokenizer) - 3).eval()
    model.load_state_dict(load_file(TINY / "llava" / "model.safetensors"))
    branches = llava.Encoder(tokenizer)
    packed = branches.pack([[draw_lesson(sample_scene(rng).things, rng) for _ in range(3)]])
    features = torch.randn(1, 9, clip.WIDTH)

    def results() -> tuple[torch.Tensor, torch.Tensor]:
        with torch.no_grad():
            image, text = llava.forward(model, branches.shared, features, packed)
            similarity = text[0] @ image[0].T
            low, high = similarity.amin(1, keepdim=True), similarity.amax(1, keepdim=True)
            return model.lm_head(text), (similarity - low) / (high - low)

    before = results()
    llava.rescale(model)
    for old, new in zip(before, results(), strict=True):
        assert torch.allclose(old, new, atol=1e-3)


def test_conversations_are_tokenized_as_everywhere():
    rng = np.random.default_rng(1)
    tokenizer = load_tokenizer(TINY / "llava")
    encoder = llava.Encoder(tokenizer)
    things = sample_scene(rng).things
    for _ in range(40):
        lesson = draw_lesson(things, rng)
        answer = "".join(lesson.answer)
        prompt = build_prompt([(user_turn(lesson.question), answer)], use_im_start_end=False)
        ids = encode_prompt(prompt, tokenizer)
        mine, labels, piece = encoder.conversation(lesson)
        assert encoder.shared + [-200] + mine == ids
        assert labels[:-1] == answer_labels(prompt, ids, tokenizer)[len(encoder.shared) + 2 :]
        assert max(piece) == len(lesson.answer) - 1 and len(lesson.about) == len(lesson.answer)
        assert all(about == NOTHING or about < len(things) for about in lesson.about)


@pytest.mark.slow
def test_the_recipe_makes_every_part(tmp_path, capsys):
    arguments = ["all", "--out", str(tmp_path), "--fraction", "0.001", "--threads", "1"]
    assert pretrain.main(arguments) == 0
    printed = [line.split(":")[0] for line in capsys.readouterr().out.splitlines()]
    assert [part for part in printed if part in pretrain.PARTS] == list(pretrain.PARTS)
    made = {path.relative_to(tmp_path) for path in tmp_path.rglob("*") if path.is_file()}
    kept = {
        path.relative_to(TINY)
        for folder in ("clip", "llava")
        for path in (TINY / folder).rglob("*")
        if path.is_file()
    }
    assert made == kept | {Path("sam.pth")}
    CLIPVisionModel.from_pretrained(tmp_path / "clip")
    load_sam_weights(SamModel(sam_sizes(sam.SIZES)), tmp_path / "sam.pth")


def test_llava_without_its_parts_is_refused(tmp_path, capsys):
    assert pretrain.main(["llava", "--out", str(tmp_path), "--fraction", "0.001"]) == 2
    assert "make tokenizer and clip first" in capsys.readouterr().err


@pytest.mark.parametrize("flag, value", [("--fraction", "2"), ("--threads", "0")])
def test_impossible_flags_are_refused(tmp_path, capsys, flag, value):
    assert pretrain.main(["clip", "--out", str(tmp_path), flag, value]) == 2
    assert f"{flag} {value}".replace("2", "2.0") in capsys.readouterr().err or flag == "--threads"
