"""Masks made again from what an answer left behind, without the language model or SAM's encoder."""

import dataclasses

import numpy as np
import pytest
import torch

from model.inference.seg_states import resegment, segment_from_points
from model.sam import SamModel
from tests.model.conftest import QUESTION


@pytest.fixture
def answers(talking, image):
    items = [(image, [QUESTION, "Nothing here."]), (image[:40], [QUESTION])]
    kept = talking.stream(items, max_new_tokens=8, force_seg=True, keep_states=True)
    return [answer for replies in kept for answer in replies]


@pytest.fixture
def no_encoders(talking, monkeypatch):
    """From now on nothing but SAM's decoder may run."""

    def refuse(*_):
        raise AssertionError("an encoder or the language model ran again")

    for module in (talking.model.model.layers[0], talking.model.model.visual_model.image_encoder):
        module.register_forward_pre_hook(refuse)


def test_the_same_masks_again(talking, answers, no_encoders):
    assert all(answer.segments for answer in answers)
    for answer in answers:
        made = resegment(talking.model, answer.states)
        for n, segment in enumerate(answer.segments):
            torch.testing.assert_close(made.logits[n].numpy(), segment.logits)
            np.testing.assert_allclose(made.points[n].numpy(), segment.points, atol=1e-4)
            assert float(made.scores[n]) == pytest.approx(segment.score, abs=1e-6)


def test_answers_about_an_image_share_its_states(answers):
    first, second, other = (answer.states.image for answer in answers)
    assert first is second and first is not other
    assert first.size == (60, 80) and other.size == (40, 80)


def test_other_parameters_are_those_of_a_model_that_has_them(talking, image, answers):
    params = dataclasses.replace(
        talking.model.config.sasp_params, num_points=7, prompt="discrete", t_pos=0.6
    )
    made = resegment(talking.model, answers[0].states, params)
    talking.model.config.sasp = dataclasses.asdict(params)
    fresh = talking.segment(image, QUESTION, max_new_tokens=8, force_seg=True)
    assert made.points.shape[1] == 7
    np.testing.assert_allclose(made.points[0].numpy(), fresh.segments[0].points, atol=1e-4)
    np.testing.assert_allclose(made.logits[0].numpy(), fresh.segments[0].logits, atol=1e-5)


def test_given_points(talking, answers, no_encoders):
    answer = answers[0]
    own = resegment(talking.model, answer.states)
    again = segment_from_points(talking.model, answer.states, own.points, own.point_labels)
    torch.testing.assert_close(again.logits, own.logits)
    alone = segment_from_points(
        talking.model, answer.states, own.points, own.point_labels, text=False
    )
    assert not torch.allclose(alone.logits, own.logits)
    none = own.points[:, :0], own.point_labels[:, :0]
    text = dataclasses.replace(talking.model.config.sasp_params, prompt="text")
    torch.testing.assert_close(
        segment_from_points(talking.model, answer.states, *none).logits,
        resegment(talking.model, answer.states, text).logits,
    )
    with pytest.raises(ValueError, match="points or text"):
        segment_from_points(talking.model, answer.states, *none, text=False)


def test_points_alone_are_what_sams_own_predictor_makes_of_them(talking, answers):
    """`segment_anything`'s modules, called as its predictor calls them."""
    states = answers[0].states
    sam: SamModel = talking.model.model.visual_model
    height, width = states.image.size
    points = torch.tensor([[[20.0, 30.0], [60.0, 10.0]]])
    labels = torch.tensor([[1, 0]])
    made = segment_from_points(talking.model, states, points, labels, text=False)
    h, w = states.image.input_size
    scaled = points * torch.tensor([w / width, h / height])
    with torch.no_grad():
        sparse, dense = sam.prompt_encoder(points=(scaled, labels), boxes=None, masks=None)
        low, scores = sam.mask_decoder(
            image_embeddings=states.image.embedding,
            image_pe=sam.prompt_encoder.get_dense_pe(),
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
            multimask_output=False,
        )
    torch.testing.assert_close(
        made.logits, sam.upscale(low, (h, w), (height, width)), rtol=1e-4, atol=1e-4
    )
    torch.testing.assert_close(made.scores, scores[:, 0], rtol=1e-4, atol=1e-4)


def test_nothing_is_kept_unasked(talking, image):
    (answer,) = talking.segment_batch([(image, [QUESTION])], force_seg=True, max_new_tokens=8)
    assert answer.segments and answer.states is None
