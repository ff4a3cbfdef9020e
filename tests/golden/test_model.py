"""The whole model against the original: mask logits, losses, gradient norms, generated answers.

The checkpoint is loaded as a user loads a released one.
"""

from pathlib import Path

import numpy as np
import pytest
import torch

from dataset.collate import collate
from model import load_read
from model.loading.lora import add_lora, unwrap
from tests.released_tiny import CLIP, GOLDEN, SAM
from utils.protocol.batch import Sample
from utils.protocol.conversation import POSITIVE_ANSWER, build_prompt, user_turn

ORIGINALS = Path(__file__).parents[3] / "shared" / "golden"
"""Where the released folder itself may lie; the repository's copy follows from its formula."""

LOGITS_TOLERANCE = 1e-4
LOSS_TOLERANCE = 1e-4
GRADIENT_TOLERANCE = 1e-4
PIXEL_TOLERANCE = 1e-3


def eval_samples(figures, images) -> list[Sample]:
    arrays, meta = figures
    return [
        Sample(
            image_path=f"image_{i}.png",
            image=images[i],
            conversations=[
                build_prompt([(user_turn(query), POSITIVE_ANSWER)]) for query in case["queries"]
            ],
            masks=arrays[f"eval_gt_{i}"],
            exists=[True] * len(case["queries"]),
        )
        for i, case in enumerate(meta["eval"])
    ]


def train_samples(figures, images) -> list[Sample]:
    arrays, meta = figures
    case = meta["train"]
    samples = []
    for number, image in enumerate(case["images"]):
        first, end = case["offset"][number : number + 2]
        empty = np.zeros((0, *images[image].shape[:2]), dtype=np.uint8)
        exists = case["exists"][number]
        samples.append(
            Sample(
                image_path=f"image_{image}.png",
                image=images[image],
                conversations=case["conversations"][first:end],
                masks=arrays[f"train_masks_{image}"] if any(exists) else empty,
                exists=exists,
            )
        )
    return samples


# --- loading --------------------------------------------------------------------------------


def test_a_released_folder_loads_with_nothing_left_over(reader):
    assert reader.model.dtype == torch.float32
    assert reader.model.config.sam["embed_dim"] == SAM["embed_dim"]
    assert reader.model.seg_token_id == 800
    assert len(reader.tokenizer) == 803
    assert not reader.model.training


@pytest.mark.parametrize(
    "folder",
    [GOLDEN, *([ORIGINALS] if ORIGINALS.is_dir() else [])],
    ids=lambda path: path.parent.name,
)
def test_the_formula_gives_the_released_weights(reader, released, folder, images):
    """The regenerated checkpoint answers like the released one, wherever that one is at hand."""
    path = released if folder == GOLDEN else folder / "released_tiny"
    other = load_read(path, vision_tower=folder / "clip_tiny", sam=SAM)
    mine, theirs = reader.model.state_dict(), other.model.state_dict()
    assert mine.keys() == theirs.keys()
    assert all(torch.equal(mine[name], theirs[name]) for name in mine)


# --- teacher forced -------------------------------------------------------------------------


def test_mask_logits_of_a_batch(reader, figures, images):
    """Three images together, their views made while collating."""
    arrays, _ = figures
    samples = eval_samples(figures, images)
    with torch.no_grad():
        output = reader.model(collate(samples, reader.tokenizer, reader.model.views))
    for i, logits in enumerate(output.mask_logits):
        assert logits.dtype == torch.float32
        assert np.abs(logits.numpy() - arrays[f"eval_logits_{i}"]).max() <= LOGITS_TOLERANCE


@pytest.mark.parametrize("number", range(3))
def test_ids_and_mask_logits_of_one_image(reader, figures, images, number):
    arrays, meta = figures
    sample = eval_samples(figures, images)[number]
    assert sample.conversations == meta["eval"][number]["conversations"]
    batch = collate([sample], reader.tokenizer)
    assert np.array_equal(batch.input_ids, arrays[f"eval_ids_{number}"])
    with torch.no_grad():
        logits = reader.model(batch).mask_logits[0]
    assert np.abs(logits.numpy() - arrays[f"eval_logits_{number}"]).max() <= LOGITS_TOLERANCE


@pytest.mark.parametrize("number", range(3))
def test_mask_logits_through_segment(reader, figures, images, number):
    arrays, meta = figures
    queries = meta["eval"][number]["queries"]
    answers = reader.segment_batch([(images[number], queries)], answer=POSITIVE_ANSWER)
    assert len(answers) == len(queries)
    for answer, logits in zip(answers, arrays[f"eval_logits_{number}"], strict=True):
        (segment,) = answer.segments
        assert np.abs(segment.logits - logits).max() <= LOGITS_TOLERANCE
        assert segment.points.shape == (30, 2) and segment.similarity.shape == (24, 24)
        assert answer.token_ids[segment.token_index] == reader.model.seg_token_id
        assert np.array_equal(answer.mask, segment.logits > 0)


def test_one_question_from_a_path(reader, figures):
    arrays, meta = figures
    query = meta["eval"][2]["queries"][1]
    answer = reader.segment(str(GOLDEN / "image_2.png"), query, answer=POSITIVE_ANSWER)
    error = np.abs(answer.segments[0].logits - arrays["eval_logits_2"][1]).max()
    assert error <= LOGITS_TOLERANCE


# --- training -------------------------------------------------------------------------------


@pytest.fixture
def train_output(reader, figures, images):
    """Losses and gradients of the training batch, all weights open that the original opened."""
    arrays, meta = figures
    batch = collate(train_samples(figures, images), reader.tokenizer)
    assert np.array_equal(batch.input_ids, arrays["train_ids"])
    assert np.array_equal(batch.labels, arrays["train_labels"])
    assert np.array_equal(batch.attention_mask, arrays["train_mask"])
    assert batch.dropped == 0
    for name, parameter in reader.model.named_parameters():
        parameter.requires_grad_(name in meta["train"]["grad_norms"])
    reader.model.train()
    output = reader.model(batch)
    output.loss.backward()
    return output


def test_losses_and_every_gradient_norm(reader, figures, train_output):
    case = figures[1]["train"]
    assert len(case["losses"]) == 5
    for name, expected in case["losses"].items():
        assert float(train_output[name].detach()) == pytest.approx(expected, abs=LOSS_TOLERANCE)
        assert getattr(train_output, name) is train_output[name]

    parameters = dict(reader.model.named_parameters())
    expected_norms = case["grad_norms"]
    assert len(expected_norms) == 139
    assert expected_norms.keys() <= parameters.keys()
    # Attention ignores its key bias, so those norms are rounding noise in either implementation.
    noise = 1e-7 * max(expected_norms.values())
    for name, expected in expected_norms.items():
        gradient = parameters[name].grad
        norm = 0.0 if gradient is None else float(gradient.norm())
        assert expected == 0 or expected > 10 * noise or name.endswith("k_proj.bias"), name
        assert norm == pytest.approx(expected, rel=GRADIENT_TOLERANCE, abs=noise), name
    others = [n for n, p in parameters.items() if p.grad is not None and n not in expected_norms]
    assert others == []


def test_what_the_original_trains_is_what_lora_leaves_open(released, figures):
    """Without LoRA on top, the parts that train in full are among those of the original."""
    model = load_read(released, vision_tower=CLIP, sam=SAM).model
    add_lora(model, r=0)
    opened = {name for name, p in unwrap(model).named_parameters() if p.requires_grad}
    norms = figures[1]["train"]["grad_norms"]
    frozen_here = {name for name in norms if name not in opened}
    assert all(name.startswith(("model.layers.", "model.norm.")) for name in frozen_here)
    untouched = opened - norms.keys()
    assert all("mask_decoder" in name for name in untouched), untouched


# --- generated ------------------------------------------------------------------------------


@pytest.fixture
def with_seg_row(reader):
    """Replace the row of `[SEG]` in `lm_head`, so that `[SEG]` is (or is not) said."""
    weight = reader.model.lm_head.weight.data
    kept = weight[800].clone()

    def replace(row: np.ndarray):
        weight[800] = torch.from_numpy(row)
        return reader

    yield replace
    weight[800] = kept


@pytest.mark.parametrize("number", range(8))
def test_generated_ids_presence_and_mask(with_seg_row, figures, images, number):
    arrays, meta = figures
    case = meta["generate"][number]
    key = case["key"]
    reader = with_seg_row(arrays[f"gen_lmhead_seg_{key}"])
    prompt = arrays[f"gen_prompt_{key}"][0].tolist()
    expected = arrays[f"gen_ids_{key}"][0].tolist()
    assert expected[: len(prompt)] == prompt

    answer = reader.segment(images[case["image"]], case["query"], max_new_tokens=6)
    assert answer.token_ids == expected[len(prompt) :]
    assert answer.present == case["present"]
    assert len(answer.segments) == case["n_seg"]
    truth = arrays[f"gen_mask_{key}"] > 0
    assert (answer.mask != truth).mean() <= PIXEL_TOLERANCE
    assert answer.reason == (None if case["present"] else "no [SEG] in the answer")


def test_there_are_eight_generated_cases(figures):
    cases = figures[1]["generate"]
    assert len(cases) == 8
    assert {case["present"] for case in cases} == {True, False}
