"""Reader: generation, several `[SEG]`, batches, forced answers, and input that cannot be used."""

import numpy as np
import pytest
import torch
from PIL import Image

from model.llava import splice_image
from model.sasp import SaspParams
from tests.model.conftest import QUESTION
from utils.errors import InputError
from utils.protocol.conversation import POSITIVE_ANSWER, build_prompt, user_turn
from utils.protocol.tokenization import encode_prompt

QUESTIONS = [QUESTION, "cat", "Which thing on the left side has no corners?"]


def same_masks(one, other, tolerance=1e-4):
    assert len(one.segments) == len(other.segments)
    for a, b in zip(one.segments, other.segments, strict=True):
        assert a.token_index == b.token_index
        assert np.abs(a.logits - b.logits).max() <= tolerance


# --- generation -----------------------------------------------------------------------------


def without_cache(model, ids: list[int], features: torch.Tensor, count: int) -> list[int]:
    """Greedy decoding that runs the whole prompt again for every token."""
    new: list[int] = []
    while len(new) < count:
        row = torch.tensor([ids + new])
        spliced = splice_image(row, row != 0, model.model.embed_tokens, features, torch.tensor([0]))
        hidden = model.model(inputs_embeds=spliced.embeds, use_cache=False).last_hidden_state
        new.append(int(model.lm_head(hidden[0, -1]).argmax()))
        if new[-1] == model.config.eos_token_id:
            break
    return new


def test_generation_stops_at_the_end_token(reader, image):
    weight = reader.model.lm_head.weight
    first, second = reader.segment(image, QUESTION, max_new_tokens=2).token_ids
    assert first != second
    with torch.no_grad():
        weight[[2, second]] = weight[[second, 2]]
    answer = reader.segment(image, QUESTION, max_new_tokens=9)
    assert answer.token_ids == [first, 2]
    assert "</s>" not in answer.text


def test_answers_of_a_batch_are_those_of_single_questions(talking, image):
    other = image[:40, ::-1].copy()
    items = [(image, QUESTIONS), (other, QUESTIONS[:2]), (other, [])]
    together = talking.segment_batch(items, max_new_tokens=6)
    assert len(together) == 5
    singles = [
        talking.segment(image, question, max_new_tokens=6)
        for image, questions in items
        for question in questions
    ]
    assert any(answer.segments for answer in singles)
    for one, other in zip(together, singles, strict=True):
        assert one.token_ids == other.token_ids and one.text == other.text
        assert one.present == other.present and one.reason == other.reason
        same_masks(one, other)


def test_generated_and_teacher_forced_masks_agree(talking, image):
    """The same tokens give the same mask, whoever chose them."""
    answer = talking.segment(image, QUESTION, max_new_tokens=6)
    assert answer.segments
    prompt = build_prompt([(user_turn(QUESTION), None)])
    ids = encode_prompt(prompt, talking.tokenizer)
    row = torch.tensor([ids + answer.token_ids])
    model = talking.model
    with torch.no_grad():
        states = model.prompt_states(
            row,
            torch.ones_like(row, dtype=torch.bool),
            model.encode_clip(model.views.clip(image)[None]),
            torch.tensor([0]),
        )
    first = answer.segments[0]
    column = len(ids) + first.token_index
    state = states.hidden[0, states.text_position[0, column] - 1]
    start = int(states.image_start[0])
    similarity = states.hidden[0, start : start + 576] @ state
    assert np.allclose(first.similarity.flatten(), similarity, atol=1e-4)


# --- segments -------------------------------------------------------------------------------


def test_several_seg_in_one_answer(reader, image):
    text = "It is [SEG] and [SEG], then [SEG]."
    answer = reader.segment(image, QUESTION, answer=text)
    assert answer.text == text
    assert len(answer.segments) == 3
    places = [segment.token_index for segment in answer.segments]
    assert places == [n for n, token in enumerate(answer.token_ids) if token == 800]
    assert np.array_equal(answer.mask, np.any([s.mask for s in answer.segments], axis=0))
    first = reader.segment(image, QUESTION, answer="It is [SEG]")
    assert np.abs(first.segments[0].logits - answer.segments[0].logits).max() <= 1e-4
    assert np.abs(answer.segments[0].logits - answer.segments[1].logits).max() > 1e-4


def test_types_and_frames_of_a_segment(reader, image):
    (segment,) = reader.segment(image, QUESTION, answer=POSITIVE_ANSWER).segments
    assert segment.logits.dtype == np.float32 and segment.logits.shape == (60, 80)
    assert segment.mask.dtype == bool and np.array_equal(segment.mask, segment.logits > 0)
    assert isinstance(segment.score, float)
    assert segment.similarity.dtype == np.float32 and segment.similarity.shape == (24, 24)
    assert segment.points.dtype == np.float32 and segment.points.shape == (30, 2)
    assert segment.point_labels.dtype == np.int64 and segment.point_labels.shape == (30,)
    assert segment.points[:, 0].max() <= 79 and segment.points[:, 1].max() <= 59


def test_reasons(reader, image):
    silent = reader.segment(image, QUESTION, answer="No, it is not there.")
    assert not silent.present and silent.reason == "no [SEG] in the answer"
    assert silent.segments == [] and silent.mask.shape == (60, 80) and not silent.mask.any()

    reader.model.model.visual_model.upscale = lambda low, inner, size: torch.full(
        (len(low), *size), -1.0
    )
    empty = reader.segment(image, QUESTION, answer=POSITIVE_ANSWER)
    assert not empty.present and empty.reason == "empty mask" and len(empty.segments) == 1


def test_seg_in_the_question_is_not_an_answer(reader, image):
    answer = reader.segment(image, "What does [SEG] mean?", answer="Nothing.")
    assert answer.segments == [] and not answer.present


def test_force_seg(reader, image):
    plain = reader.segment(image, QUESTION, max_new_tokens=4)
    assert not plain.segments
    forced = reader.segment(image, QUESTION, max_new_tokens=4, force_seg=True)
    assert forced.text.startswith(plain.text) and forced.text.endswith(POSITIVE_ANSWER)
    (segment,) = forced.segments
    assert forced.token_ids[segment.token_index] == 800


def test_force_seg_leaves_answers_with_a_seg_alone(talking, image):
    given = talking.segment_batch([(image, QUESTIONS)], max_new_tokens=6)
    forced = talking.segment_batch([(image, QUESTIONS)], max_new_tokens=6, force_seg=True)
    assert any(answer.segments for answer in given)
    assert all(answer.segments for answer in forced)
    for one, other in zip(given, forced, strict=True):
        if one.segments:
            assert one.token_ids == other.token_ids
            same_masks(one, other)


@pytest.mark.parametrize("prompt", ["points", "discrete", "text"])
def test_prompt_kinds_reach_the_masks(reader, image, prompt):
    reader.model.config.sasp_params = SaspParams(prompt=prompt)
    (segment,) = reader.segment(image, QUESTION, answer=POSITIVE_ANSWER).segments
    whole = np.array_equal(segment.points, np.trunc(segment.points))
    assert len(segment.points) == (0 if prompt == "text" else 30)
    assert whole == (prompt != "points")
    assert np.isfinite(segment.logits).all()


# --- work done once -------------------------------------------------------------------------


def count_rows(module: torch.nn.Module) -> list[int]:
    """Rows of every call of a module, from now on."""
    rows: list[int] = []
    module.register_forward_hook(lambda _, given, __: rows.append(len(given[0])))
    return rows


def test_encoders_run_once_for_each_image(talking, image):
    model = talking.model.model
    clip, sam = count_rows(model.vision_tower), count_rows(model.visual_model.image_encoder)
    projected = count_rows(model.text_hidden_fcs[0])
    answers = talking.segment_batch([(image, QUESTIONS)], max_new_tokens=6, force_seg=True)
    assert clip == [1] and sam == [1]
    assert sum(projected) == sum(len(answer.segments) for answer in answers) >= 3


def test_sam_rests_when_there_is_nothing_to_show(reader, image):
    sam = count_rows(reader.model.model.visual_model.image_encoder)
    reader.segment(image, QUESTION, answer="No.")
    assert sam == []


def test_training_mode_comes_back(reader, image):
    reader.model.train()
    reader.segment(image, QUESTION, answer=POSITIVE_ANSWER)
    assert reader.model.training and not reader.model.model.vision_tower.training


# --- images and bad input -----------------------------------------------------------------


def test_every_kind_of_image(reader, image, tmp_path):
    path = tmp_path / "image.png"
    Image.fromarray(image).save(path)
    given = [image, image[:, :, :], path, str(path), Image.fromarray(image)]
    answers = [reader.segment(image, QUESTION, answer=POSITIVE_ANSWER) for image in given]
    for answer in answers[1:]:
        same_masks(answers[0], answer, tolerance=0)


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (40, 1), (3, 2)])
def test_tiny_images(reader, size):
    answer = reader.segment(np.zeros((*size, 3), np.uint8), QUESTION, answer=POSITIVE_ANSWER)
    assert answer.mask.shape == size and np.isfinite(answer.segments[0].logits).all()


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((4, 5, 3), np.float32), r"float32\[4, 5, 3\]; expected uint8"),
        (np.zeros((4, 5), np.uint8), r"uint8\[4, 5\]; expected"),
        (np.zeros((3, 4, 5), np.uint8), r"uint8\[3, 4, 5\]; expected"),
        (np.zeros((0, 5, 3), np.uint8), r"uint8\[0, 5, 3\]; expected"),
        (None, "given as NoneType"),
        (torch.zeros(3, 4, 5), "given as Tensor"),
    ],
)
def test_unusable_images(reader, image, message):
    with pytest.raises(InputError, match=message):
        reader.segment(image, QUESTION)


def test_missing_and_broken_files(reader, image, tmp_path):
    with pytest.raises(InputError, match=r"nowhere\.png"):
        reader.segment(tmp_path / "nowhere.png", QUESTION)
    text = tmp_path / "text.png"
    text.write_text("no image")
    with pytest.raises(InputError, match=r"text\.png"):
        reader.segment(text, QUESTION)
    whole = tmp_path / "whole.png"
    Image.fromarray(image).save(whole)
    cut = tmp_path / "cut.png"
    cut.write_bytes(whole.read_bytes()[:2000])
    with pytest.raises(InputError, match=r"cut\.png"):
        reader.segment(str(cut), QUESTION)
    with pytest.raises(InputError):
        reader.segment(tmp_path, QUESTION)


@pytest.mark.parametrize(
    ("question", "message"),
    [("", "expected a sentence"), (" \n", "expected a sentence"), (None, "expected a sentence")]
    + [("What is in <image>?", "leave it out"), ("word " * 3000, "shorten the question")],
)
def test_unusable_questions(reader, image, question, message):
    with pytest.raises(InputError, match=message):
        reader.segment(image, question)


def test_unusable_length(reader, image):
    with pytest.raises(InputError, match="max_new_tokens is 0"):
        reader.segment(image, QUESTION, max_new_tokens=0)
