"""Every similarity map against hidden states that hooks catch while a reader answers."""

import dataclasses
from contextlib import contextmanager

import numpy as np
import pytest
import torch

from model import load_read
from model.analysis.probe import ProbeQuery, SegProbe
from model.analysis.similarity_maps import Dialogue, clip_maps, layer_maps, llava_maps, sam_maps
from model.inference.prompts import PromptFormat
from model.llava import splice_image
from tests.model.babble import QUESTIONS, babbling, images
from tests.model.conftest import QUESTION
from utils.analysis.map_frames import PlacedMap
from utils.protocol.generation import GenerationOptions
from utils.protocol.geometry import clip_box, sam_box

GIVEN = "It is here: [SEG] and there: [SEG]."
ASKED = "Where is it?"


@contextmanager
def caught(**modules):
    """Inputs and outputs of modules while they run: name -> list of (inputs, output)."""
    found = {name: [] for name in modules}

    def keep(name):
        return lambda _module, inputs, output: found[name].append((inputs, output))

    hooks = [module.register_forward_hook(keep(name)) for name, module in modules.items()]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()


@pytest.fixture(params=[GIVEN, None])
def told(request, talking, image):
    """An answer with its states, and what hooks saw meanwhile: given words, generated words."""
    inner = talking.model.model
    modules = {f"block {n}": block for n, block in enumerate(inner.layers)}
    modules |= {"norm": inner.norm, "projector": inner.mm_projector}
    modules["transformer"] = inner.visual_model.mask_decoder.transformer
    with caught(**modules) as found:
        question = ASKED if request.param else QUESTION
        items, settings = [(image, [question])], {"max_new_tokens": 8, "keep_states": True}
        stream = talking.stream(items, answer=request.param, **settings)
        (answer,) = next(iter(stream))
    assert len(answer.segments) == (2 if request.param else 1)
    return talking, question, answer, found


def gathered_states(passes) -> torch.Tensor:
    """States float[L, D] of the whole dialogue: its shared part, its question, its tokens."""
    outputs = [output[0] if isinstance(output, tuple) else output for _, output in passes]
    return torch.cat([output[0] for output in outputs])


def places(reader, question, answer) -> tuple[slice, list[int]]:
    """Positions of the image, and of the states before each `[SEG]`."""
    shared, own = PromptFormat(reader.model, reader.tokenizer).prompt(question)
    count = reader.model.image_tokens
    start = len(shared) + len(own) + count - 1
    first = shared.index(-200)
    before = [start + segment.token_index - 1 for segment in answer.segments]
    return slice(first, first + count), before


def close(maps, states: torch.Tensor, seg: torch.Tensor) -> None:
    """Whether maps [n, side, side] are the dot products of states [V, D] with seg [n, D]."""
    expected = (seg.double() @ states.double().T).numpy()
    made = np.asarray(maps).reshape(len(seg), -1)
    np.testing.assert_allclose(made, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())
    assert maps.shape[1] == maps.shape[2] and expected.std() > 0


def test_llava_map(told):
    reader, question, answer, found = told
    image, before = places(reader, question, answer)
    states = gathered_states(found["norm"])
    maps = llava_maps(answer.states)
    close(maps, states[image], states[before])
    for one, segment in zip(maps, answer.segments, strict=True):
        np.testing.assert_allclose(one, segment.similarity, rtol=1e-5, atol=1e-5)


def test_clip_map(told):
    reader, question, answer, found = told
    _, before = places(reader, question, answer)
    ((_, features),) = found["projector"]
    close(clip_maps(answer.states), features[0], gathered_states(found["norm"])[before])


def test_layer_maps(told):
    reader, question, answer, found = told
    image, before = places(reader, question, answer)
    shared, own = PromptFormat(reader.model, reader.tokenizer).prompt(question)
    ids = [*shared, *own, *answer.token_ids]
    seg = [len(shared) + len(own) + segment.token_index for segment in answer.segments]
    features = answer.states.clip_features
    last = len(reader.model.model.layers)
    dialogues = [Dialogue(ids, seg), Dialogue(ids[: seg[0] + 1], seg[:1])]
    maps, first = layer_maps(reader.model, features, dialogues, [*range(last + 1)])
    embeds = torch.cat([inputs[0][0] for inputs, _ in found["block 0"]])
    close(maps[:, 0], embeds[image], embeds[before])
    for layer in range(1, last):
        states = gathered_states(found[f"block {layer - 1}"])
        close(maps[:, layer], states[image], states[before])
    states = gathered_states(found["norm"])
    close(maps[:, last], states[image], states[before])
    torch.testing.assert_close(first, maps[:1], rtol=1e-4, atol=1e-4)
    (chosen,) = layer_maps(reader.model, features, dialogues[:1], [last, 1])
    torch.testing.assert_close(chosen, maps[:, [last, 1]], rtol=1e-4, atol=1e-4)


def test_layers_are_transformers_own(told):
    reader, _, answer, _ = told
    inner, features = reader.model.model, answer.states.clip_features
    ids = [1, 5, -200, 7, 8, 9, 10]
    nothing = torch.zeros(1, dtype=torch.int64)
    with torch.no_grad():
        row = torch.tensor([ids])
        spliced = splice_image(row, row != 0, inner.embed_tokens, features[None], nothing)
        mask = spliced.attention_mask
        hidden = inner(
            inputs_embeds=spliced.embeds, attention_mask=mask, output_hidden_states=True
        ).hidden_states
    layers = list(range(len(hidden)))
    (maps,) = layer_maps(reader.model, features, [Dialogue(ids, [6])], layers)
    assert len(hidden) == len(inner.layers) + 1
    for layer, states in enumerate(hidden):
        close(maps[:, layer], states[0, 2 : 2 + len(features)], states[0, -2:-1])


def test_sam_map(told):
    reader, _, answer, found = told
    tokens, cells = found["transformer"][0][1]
    maps = sam_maps(reader.model, answer.states)
    assert len(tokens) == len(answer.segments)
    for one, token, cell in zip(maps, tokens, cells, strict=True):
        expected = (cell.double() @ token[-1].double()).reshape(one.shape)
        np.testing.assert_allclose(one, expected, rtol=1e-4, atol=1e-4)
        assert one.std() > 0


def test_sam_map_uses_the_seg_token_and_nothing_else(told, monkeypatch):
    reader, _, answer, _ = told
    sam, before = reader.model.model.visual_model, sam_maps(reader.model, answer.states)
    attend = type(sam).attend

    def others_gone(self, *given):
        tokens, cells = attend(self, *given)
        tokens[:, :-1] = torch.nan
        return tokens, cells

    monkeypatch.setattr(type(sam), "attend", others_gone)
    torch.testing.assert_close(sam_maps(reader.model, answer.states), before)

    def another_seg(self, *given):
        tokens, cells = attend(self, *given)
        tokens[:, -1] *= -2
        return tokens, cells

    monkeypatch.setattr(type(sam), "attend", another_seg)
    torch.testing.assert_close(sam_maps(reader.model, answer.states), -2 * before)
    monkeypatch.undo()
    query = answer.states.query
    flipped = dataclasses.replace(query, seg_state=query.seg_state.flip(1))
    other = dataclasses.replace(answer.states, query=flipped)
    params = reader.model.config.sasp_params
    text = dataclasses.replace(params, prompt="text")  # no points, which the state moves as well
    assert not torch.allclose(
        sam_maps(reader.model, other, text), sam_maps(reader.model, answer.states, text), rtol=0.01
    )


# --- where maps lie -------------------------------------------------------------------------

SIZES = [(60, 200), (200, 60), (333, 500), (90, 90), (411, 137)]


def with_patch(size, x, y, side) -> np.ndarray:
    """A grey image with a square of noise around (x, y)."""
    image = np.full((*size, 3), 90, np.uint8)
    noise = np.random.default_rng(0).integers(0, 255, (side, side, 3), dtype=np.uint8)
    top, left = round(y - side / 2), round(x - side / 2)
    image[top : top + side, left : left + side] = noise
    return image


def hottest(values: np.ndarray) -> tuple[float, float]:
    """(x, y) of the highest value of a map over the whole image."""
    row, column = np.unravel_index(np.nanargmax(values), values.shape)
    return column + 0.5, row + 0.5


@pytest.mark.parametrize("size", SIZES)
def test_a_planted_patch_is_found_through_clips_crop(reader, size):
    box = clip_box(size, 336)
    left, top, right, bottom = box
    cell = (right - left) / 24
    side = max(4, round(cell))
    for down, along in ((0.2, 0.8), (0.5, 0.5), (0.85, 0.1)):
        x, y = left + along * (right - left), top + down * (bottom - top)
        views = [with_patch(size, x, y, side), np.full((*size, 3), 90, np.uint8)]
        crops = torch.stack([reader.model.views.clip(view) for view in views])
        with torch.no_grad():
            patch, plain = reader.model.encode_clip(crops)
        change = (patch - plain).norm(dim=-1).reshape(24, 24).numpy()
        over = PlacedMap(change, box).over(size)
        found_x, found_y = hottest(over)
        assert abs(found_x - x) <= cell and abs(found_y - y) <= cell
        seen = ~np.isnan(over)
        assert seen.sum() == pytest.approx((right - left) * (bottom - top), rel=0.05)
        assert seen.any(axis=0).sum() == pytest.approx(min(size), abs=2)


@pytest.mark.parametrize("size", SIZES)
def test_a_planted_patch_is_found_through_sams_padding(reader, size):
    sam_side = reader.model.views.sam_size
    cell = max(size) / (sam_side / 16)
    for down, along in ((0.2, 0.8), (0.5, 0.5), (0.8, 0.2)):
        x, y = along * size[1], down * size[0]
        side = max(4, min(round(cell), min(size) // 3))
        frames = [
            reader.model.views.sam(view)
            for view in (with_patch(size, x, y, side), np.full((*size, 3), 90, np.uint8))
        ]
        pixels, inside = torch.stack([frame for frame, _ in frames]), frames[0][1]
        # Behind the patches; the attention that follows spreads the change.
        with caught(patches=reader.model.model.visual_model.image_encoder.patch_embed) as found:
            reader.model.encode_sam(pixels, [inside] * 2)
        patch, plain = found["patches"][0][1]
        change = (patch - plain).norm(dim=-1).numpy()
        over = PlacedMap(change, sam_box(size, inside, sam_side)).over(size)
        found_x, found_y = hottest(over)
        assert abs(found_x - x) <= cell and abs(found_y - y) <= cell
        assert not np.isnan(over).any()


# --- all of it ------------------------------------------------------------------------------


def test_an_analyst_sees_all(small_folder):
    reader = babbling(load_read(small_folder))
    items = [
        (image, [ProbeQuery(text, "") for text in QUESTIONS[:count]])
        for image, count in zip(images(3), (7, 0, 2), strict=True)
    ]
    pretrained_sam = reader.model.model.visual_model
    options = GenerationOptions(max_new_tokens=10, batch_questions=2)
    analyst = SegProbe(reader, options, [0, 2], None, pretrained_sam)
    looked = list(analyst.stream(items))
    assert [len(seen) for seen in looked] == [7, 0, 2]
    counts = set()
    for (image, questions), found in zip(items, looked, strict=True):
        size = image.shape[:2]
        for question, seen in zip(questions, found, strict=True):
            plain = reader.segment(image, question.text, max_new_tokens=10)
            segments = plain.segments
            counts.add(len(segments))
            assert seen.answer.text == plain.text
            assert set(seen.masks) == {"text", "discrete", "points", "sam_points"}
            np.testing.assert_array_equal(seen.masks["points"], plain.mask)
            assert bool(segments) == bool(seen.maps) == bool(seen.layers) == bool(len(seen.points))
            if not segments:
                assert not any(mask.any() for mask in seen.masks.values())
                continue
            assert set(seen.maps) == {"clip", "llava", "sam"} and set(seen.layers) == {0, 2}
            close_to = {"rtol": 1e-4, "atol": 1e-4}
            np.testing.assert_allclose(
                seen.maps["llava"].values, segments[0].similarity, **close_to
            )
            last = np.concatenate([segment.points for segment in segments])
            np.testing.assert_allclose(seen.points, last, **close_to)
            assert list(seen.labels) == [n for one in segments for n in one.point_labels]
            assert seen.maps["llava"].box == clip_box(size, 336) == seen.layers[0].box
            assert seen.maps["sam"].values.shape == (8, 8)
    assert counts >= {0, 1, 2}


def test_masks_of_every_prompt_are_those_of_a_model_that_has_it(talking, image):
    talking.model.config.sasp = {"prompt": "text"}
    ((seen,),) = SegProbe(talking, GenerationOptions(GIVEN)).stream(
        [(image, [ProbeQuery(ASKED, "")])]
    )
    assert len(seen.points) == len(seen.labels) == 60 and seen.answer.segments[0].points.size == 0
    for prompt in ("text", "discrete", "points"):
        talking.model.config.sasp = {"prompt": prompt}
        answer = talking.segment(image, ASKED, GIVEN)
        np.testing.assert_array_equal(seen.masks[prompt], answer.mask)
        assert answer.mask.any()
    assert not np.array_equal(seen.masks["text"], seen.masks["points"])
