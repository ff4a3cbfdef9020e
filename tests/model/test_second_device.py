"""READ on a device that is not the CPU: a training step and answers.

The device is `tests.simulated_device`: tensors that are left on the CPU, or of another dtype, are
refused as CUDA refuses them; values are those of the CPU. `pytest -s` prints launches and syncs.
"""

import numpy as np
import pytest
import torch

from dataset.collate import collate
from model import Reader, SaspParams, load_read
from model.analysis.ablation import Ablation
from model.analysis.clip_word_maps import load_word_clip
from model.analysis.probe import ProbeQuery, SegProbe
from model.inference.seg_states import resegment, segment_from_points
from model.loading.lora import add_lora
from model.shared_prefix import same_attention
from tests.model.babble import QUESTIONS, babbling
from tests.model.conftest import QUESTION
from tests.model.test_read_model import NO, YES, make_sample
from tests.model.whole_clip import write_whole_clip
from tests.released_tiny import CLIP, SAM, write_released
from tests.simulated_device import DEVICE, SimulatedDevice
from utils.protocol.constants import PROMPTS
from utils.protocol.generation import GenerationOptions

pytestmark = pytest.mark.slow

LENGTH = 8
BATCHES = {
    "masks": [[YES, NO, "Both [SEG] and [SEG]."], [YES]],
    "one image without a mask": [[NO, NO], [YES, YES]],
    "no mask": [[NO], [NO, NO]],
}


@pytest.fixture
def device():
    with SimulatedDevice() as simulated:
        yield simulated


def batch_of(reader: Reader, answers: list[list[str]], views: bool):
    sizes = [(40, 64), (52, 33)]
    samples = [make_sample(size, given, 3) for size, given in zip(sizes, answers, strict=True)]
    return collate(samples, reader.tokenizer, views=reader.model.views if views else None)


def step(reader: Reader, batch, checkpointing: bool) -> dict[str, torch.Tensor]:
    """Losses, and gradients of what trains, after one forward and backward; on the CPU."""
    torch.manual_seed(0)
    if checkpointing:
        enable = getattr(reader.model, "activation_checkpointing_enable", None)
        how = {"use_reentrant": False, "context_fn": same_attention(reader.model.config)}
        (enable or reader.model.gradient_checkpointing_enable)(how)
    model = add_lora(reader.model, r=2, dropout=0.0).train()
    output = model(batch)
    output.loss.backward()
    assert all(p.grad.device == p.device for p in model.parameters() if p.grad is not None)
    found = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    found |= {name: output[name] for name in ("loss", "ce_loss", "mask_bce_loss", "mask_dice_loss")}
    return {name: value.detach().float().cpu() for name, value in found.items()}


@pytest.fixture(scope="module")
def on_cpu(small_folder) -> dict[str, dict[str, torch.Tensor]]:
    """What `step` gives on the CPU for each of `BATCHES`."""
    found = {}
    for name, answers in BATCHES.items():
        reader = load_read(small_folder, device="cpu")
        found[name] = step(reader, batch_of(reader, answers, True), False)
    return found


@pytest.mark.parametrize(("views", "checkpointing"), [(False, True), (True, False)])
@pytest.mark.parametrize("answers", BATCHES)
def test_a_training_step(small_folder, on_cpu, answers, views, checkpointing):
    expected = on_cpu[answers]
    moved = load_read(small_folder, device="cpu")
    with SimulatedDevice() as device:
        moved.model.to(DEVICE)
        made = step(moved, batch_of(moved, BATCHES[answers], views), checkpointing)
    print(device)
    assert device.launches.total() > 500
    assert made.keys() == expected.keys() and len(made) > 100
    for name, value in expected.items():
        torch.testing.assert_close(made[name], value, rtol=1e-3, atol=1e-5, msg=name)


def test_ranks_in_step(small_folder, device):
    reader = load_read(small_folder, device="cpu")
    reader.model.to(DEVICE).uniform_forward = True
    made = step(reader, batch_of(reader, BATCHES["one image without a mask"], True), False)
    assert torch.isfinite(made["loss"])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_training_step_in_16_bits(small_folder, device, dtype):
    reader = load_read(small_folder, device="cpu", dtype=dtype)
    reader.model.to(DEVICE)
    made = step(reader, batch_of(reader, BATCHES["masks"], True), True)
    assert all(torch.isfinite(value).all() for value in made.values())


def same(answer, other) -> bool:
    assert len(answer.segments) == len(other.segments)
    for one, two in zip(answer.segments, other.segments, strict=True):
        np.testing.assert_allclose(one.logits, two.logits, atol=1e-4)
        np.testing.assert_allclose(one.points, two.points, atol=1e-3)
    return answer.token_ids == other.token_ids and answer.text == other.text


def test_answers(small_folder, image, device):
    """One question, several images with several questions, a chat, given answers."""
    reader = babbling(load_read(small_folder, device="cpu"))
    items = [(image, QUESTIONS[:3]), (image[:, :50], QUESTIONS[3:]), (image[:40], [QUESTION])]

    def ask() -> list:
        opened = reader.open(image)
        return [
            reader.segment(image, QUESTION, max_new_tokens=LENGTH),
            *reader.segment_batch(items, max_new_tokens=LENGTH, batch_questions=4),
            *reader.segment_batch(items[:2], answer=YES),
            reader.segment(image, QUESTION, max_new_tokens=2, force_seg=True),
            *(reader.segment(opened, question, max_new_tokens=4) for question in QUESTIONS[:2]),
        ]

    expected = ask()
    assert sum(len(answer.segments) for answer in expected) > 8
    reader.model.to(DEVICE)
    assert all(map(same, ask(), expected))
    print(device)
    assert device.launches.total() > 2000


def test_masks_made_again(small_folder, image, device):
    reader = load_read(small_folder, device="cpu")
    reader.model.to(DEVICE)
    ((answer,),) = reader.stream([(image, [QUESTION])], answer=YES, keep_states=True)
    made = resegment(reader.model, answer.states)
    np.testing.assert_allclose(made.logits[0].cpu().numpy(), answer.segments[0].logits, atol=1e-5)
    segment = answer.segments[0]
    points = torch.from_numpy(segment.points)[None], torch.from_numpy(segment.point_labels)[None]
    again = segment_from_points(reader.model, answer.states, *points)
    np.testing.assert_allclose(again.logits[0].cpu().numpy(), segment.logits, atol=1e-4)


def test_an_analysis_and_an_ablation(small_folder, image, device, tmp_path):
    clip = write_whole_clip(tmp_path / "clip")
    reader = babbling(load_read(small_folder, vision_tower=clip, device="cpu"))
    items = [(image, [ProbeQuery(question, "cup") for question in QUESTIONS[:2]])]
    settings = [SaspParams(prompt=prompt, down_sample=1) for prompt in PROMPTS]
    truth = np.zeros(image.shape[:2], np.uint8)
    truth[:30] = 1

    def look() -> tuple[list, list]:
        core = reader.model.model
        word = load_word_clip(core.vision_tower)
        options = GenerationOptions(YES, LENGTH)
        analyst = SegProbe(reader, options, [0, 2], word, core.visual_model)
        (seen,) = analyst.stream(items)
        vary = Ablation(reader.model, settings)
        return seen, vary([([one.answer for one in seen], [truth] * 2)])[0]

    expected, outcomes = look()
    reader.model.to(DEVICE)
    made, again = look()
    assert again == outcomes and len(outcomes[0]) == len(settings)
    for one, two in zip(made, expected, strict=True):
        assert set(one.masks) == set(two.masks) and len(one.masks) == 4
        assert all(np.array_equal(one.masks[name], two.masks[name]) for name in two.masks)
        for name, kept in {**two.maps, **two.layers}.items():
            found = one.maps[name] if name in one.maps else one.layers[name]
            np.testing.assert_allclose(found.values, kept.values, rtol=1e-3, atol=1e-4)


def near(made, expected, tolerance: float) -> None:
    one, two = made.segments[0], expected.segments[0]
    np.testing.assert_allclose(one.similarity, two.similarity, rtol=tolerance, atol=tolerance)
    assert one.logits.shape == two.logits.shape and np.isfinite(one.logits).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_answers_in_16_bits(small_folder, image, device, dtype):
    reader = load_read(small_folder, device="cpu", dtype=dtype)
    expected = reader.segment(image, QUESTION, answer=YES)
    reader.model.to(DEVICE)
    near(reader.segment(image, QUESTION, answer=YES), expected, 0.3)
    assert len(reader.segment(image, QUESTION, max_new_tokens=3).token_ids) == 3


def test_the_released_layout_answers(tmp_path, image, device):
    folder = write_released(tmp_path / "released")
    reader = load_read(folder, vision_tower=CLIP, sam=SAM, device="cpu")
    expected = reader.segment(image, QUESTION, answer=YES)
    reader.model.to(DEVICE)
    near(reader.segment(image, QUESTION, answer=YES), expected, 1e-3)
    assert len(reader.segment(image, QUESTION, max_new_tokens=3).token_ids) == 3
