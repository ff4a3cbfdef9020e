"""Every released layout loads, answers, trains a step, is saved, and loads again unchanged."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from dataset.collate import collate
from model import load_read
from model.inference.reader import Reader
from model.loading.builder import Built, build_for_training, save_model
from model.loading.load_report import PARTS
from model.loading.lora import add_lora, merge
from model.loading.missing_weights import NEW
from tests.conftest import MICRO_SAM
from tests.model.conftest import QUESTION
from tests.model.test_read_model import YES, make_sample
from tests.released_layouts import LAYOUTS, WORDS, write_layout, write_weights
from utils.cli.train_flags import ModelOptions
from utils.errors import InputError

BY_NAME = {layout.name: layout for layout in LAYOUTS}
LLAVA, READ = BY_NAME["llava-v1.5-7b"], BY_NAME["READ-7B"]
MASK_PARTS = ("SAM encoder", "SAM decoder", "projection head")


@pytest.fixture(params=LAYOUTS, ids=str)
def layout(request):
    return request.param


@pytest.fixture
def build(micro_parts):
    """A function that builds the model of a folder for training."""

    def made(folder, **options) -> Built:
        options = {"vision_pretrained": micro_parts.sam, **options}
        return build_for_training(
            ModelOptions(
                version=folder,
                vision_tower=micro_parts.clip,
                sam=MICRO_SAM,
                out_dim=32,
                precision="fp32",
                **options,
            )
        )

    return made


def one_step(built: Built) -> dict[str, torch.Tensor]:
    """Train a step with LoRA; returns the merged weights."""
    torch.manual_seed(0)
    model = add_lora(built.model, r=2, dropout=0.0).train()
    trained = [p for p in model.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(trained, lr=1e-2)
    losses = []
    for _ in range(2):
        optimiser.zero_grad()
        loss = model(collate([make_sample((40, 56), [YES])], built.tokenizer)).loss
        losses.append(float(loss.detach()))
        loss.backward()
        optimiser.step()
    assert all(np.isfinite(losses)) and losses[1] < losses[0]
    built.model = merge(model).eval()
    return built.model.state_dict()


def answers(reader: Reader, image) -> list:
    return [
        reader.segment(image, QUESTION, max_new_tokens=4),
        reader.segment(image, QUESTION, answer=YES),
    ]


def test_loads_answers_trains_saves_and_loads_again(layout, build, micro_parts, image, tmp_path):
    weights = write_layout(tmp_path / layout.name, layout, micro_parts)
    built = build(tmp_path / layout.name)
    state = {name: value.clone() for name, value in built.model.state_dict().items()}
    used = [name for name in weights if name in state]
    assert not any("proj" in name or "visual_model" in name for name in weights.keys() - used)
    for name in used:
        assert torch.equal(state[name][: len(weights[name])], weights[name].float()), name
    assert built.model.lm_head.weight.shape[0] == WORDS + 3 == len(built.tokenizer)

    if layout.has_masks:
        first = load_read(tmp_path / layout.name, sam=MICRO_SAM)
        forced = answers(first, image)[1]
        assert forced.segments[0].logits.shape == image.shape[:2]
    else:
        with pytest.raises(InputError, match=r"lacks \d+ weights.*plain LLaVA"):
            load_read(tmp_path / layout.name, vision_tower=micro_parts.clip)

    after = one_step(built)
    changed = {name for name in state if not torch.equal(state[name], after[name])}
    for part in ("q_proj", "v_proj", "lm_head", "embed_tokens", "mask_decoder", "text_hidden_fcs"):
        assert any(part in name for name in changed), part
    assert not any("image_encoder" in name or "vision_tower" in name for name in changed)

    save_model(built.model, built.tokenizer, tmp_path / "saved")
    again = load_read(tmp_path / "saved")
    for name, value in again.model.state_dict().items():
        assert torch.equal(value, after[name]), name
    before = answers(Reader(built.model, built.tokenizer), image)
    for one, other in zip(before, answers(again, image), strict=True):
        assert one.token_ids == other.token_ids
        assert np.array_equal(one.mask, other.mask)


def test_the_report_says_where_everything_came_from(layout, build, micro_parts, tmp_path):
    folder = tmp_path / layout.name
    weights = write_layout(folder, layout, micro_parts)
    built = build(folder)
    assert {origin.part for origin in built.loaded.origins} == {part for part, _ in PARTS}
    rows = {part: built.loaded.of(part) for part, _ in PARTS}
    assert all(len(found) == 1 for found in rows.values())
    state = built.model.state_dict()
    assert sum(o.tensors for o in built.loaded.origins) == len(state)
    assert sum(o.parameters for o in built.loaded.origins) == sum(v.numel() for v in state.values())
    for part in ("embeddings", "language model", "projector"):
        assert rows[part][0].source.startswith(f"{folder}: ")
    layers = [name for name in weights if name.startswith(("model.layers.", "model.norm."))]
    assert rows["language model"][0].tensors == sum("inv_freq" not in name for name in layers)
    assert rows["CLIP"][0].source == str(micro_parts.clip)
    if layout.has_masks:
        assert all(rows[part][0].source.startswith(f"{folder}: ") for part in MASK_PARTS)
        assert f"all {WORDS + 3} rows" in rows["embeddings"][0].why
    else:
        for part in MASK_PARTS[:2]:
            assert rows[part][0].source == f"{micro_parts.sam.parent}: sam.pth"
            assert "--vision_pretrained" in rows[part][0].why
        assert rows["projection head"][0].source == NEW
        assert "3 rows newly initialised for [SEG]" in rows["embeddings"][0].why
    unused = any("not needed from the checkpoint" in note for note in built.loaded.notes)
    assert unused == (layout.inv_freq or layout.tower)
    column = built.report[0].index("from")
    for line, origin in zip(built.report[1:], built.loaded.origins, strict=False):
        assert line.startswith(origin.part) and line[column:].startswith(origin.source)


def test_new_rows_are_the_mean_of_the_others(build, micro_parts, tmp_path):
    weights = write_layout(tmp_path / "llava", LLAVA, micro_parts)
    model = build(tmp_path / "llava").model
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        mean = weights[name].float().mean(dim=0)
        fresh = model.state_dict()[name][WORDS:]
        assert torch.allclose(fresh, mean.expand(3, -1), atol=1e-6)


@pytest.mark.parametrize(
    "lost",
    [
        ["model.text_hidden_fcs.0.2.bias"],
        [f"model.text_hidden_fcs.0.{n}.{kind}" for n in (0, 2) for kind in ("weight", "bias")],
        ["model.visual_model.mask_decoder.iou_token.weight"],
        ["model.visual_model.image_encoder.pos_embed", "model.layers.1.mlp.up_proj.weight"],
        ["model.mm_projector.2.weight"],
    ],
)
def test_what_a_read_checkpoint_lacks_is_named(build, micro_parts, tmp_path, lost):
    folder = tmp_path / "read"
    weights = write_layout(folder, READ, micro_parts)
    for file in folder.glob("pytorch_model*"):
        file.unlink()
    kept = {name: value for name, value in weights.items() if name not in lost}
    write_weights(folder, kept, READ.store)
    for load in (build, lambda path: load_read(path, sam=MICRO_SAM)):
        with pytest.raises(InputError, match=f"lacks {len(lost)} weights") as caught:
            load(folder)
        assert all(name in str(caught.value) for name in lost)


def test_a_read_class_without_any_masks_is_no_llava(build, micro_parts, tmp_path):
    write_layout(tmp_path / "llava", LLAVA, micro_parts)
    path = tmp_path / "llava" / "config.json"
    values = {**json.loads(path.read_text()), "architectures": ["READForCausalLM"]}
    path.write_text(json.dumps(values))
    with pytest.raises(InputError, match=r"lacks 164 weights.*Expected a complete READ"):
        build(tmp_path / "llava")


def test_a_llava_needs_sam(build, micro_parts, tmp_path):
    write_layout(tmp_path / "llava", LLAVA, micro_parts)
    with pytest.raises(InputError, match="holds no SAM weights.*--vision_pretrained"):
        build(tmp_path / "llava", vision_pretrained=None)


def test_released_parameters_are_kept_or_replaced(build, micro_parts, tmp_path):
    weights = write_layout(tmp_path / "read", READ, micro_parts)
    sam = torch.load(micro_parts.sam, weights_only=True)
    prefix = "model.visual_model."
    kept = build(tmp_path / "read", use_released_param=True).model.state_dict()
    built = build(tmp_path / "read", use_released_param=False)
    replaced = built.model.state_dict()
    for name, value in weights.items():
        if name.startswith(prefix):
            assert torch.equal(kept[name], value.float())
            assert torch.equal(replaced[name], sam[name.removeprefix(prefix)])
        elif name in kept:
            assert torch.equal(kept[name], value.float())
            same = torch.equal(replaced[name], value.float())
            assert same != name.startswith("model.text_hidden_fcs.")
    for part in ("SAM decoder", "projection head"):
        assert "--no_use_released_param" in built.loaded.of(part)[0].why


def test_an_index_that_names_a_lost_file(build, micro_parts, tmp_path):
    write_layout(tmp_path / "read", READ, micro_parts)
    lost = "pytorch_model-00002-of-00003.bin"
    (tmp_path / "read" / lost).unlink()
    with pytest.raises(InputError, match=f"lacks {lost}"):
        build(tmp_path / "read")
    (tmp_path / "read" / "pytorch_model.bin.index.json").write_text("{")
    with pytest.raises(InputError, match="no index of weight files"):
        build(tmp_path / "read")
    (tmp_path / "read" / "pytorch_model.bin.index.json").unlink()
    with pytest.raises(InputError, match="holds no weights: expected one of"):
        build(tmp_path / "read")
