"""The training pass: order of masks, batches without masks, where gradients go, bf16."""

import copy
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from dataset.collate import collate
from model.loading.lora import add_lora
from tests.model.conftest import QUESTION
from utils.errors import InputError
from utils.protocol.batch import Sample
from utils.protocol.conversation import POSITIVE_ANSWER, build_prompt, user_turn

YES, NO = POSITIVE_ANSWER, "No, I do not see it."


def make_sample(size: tuple[int, int], answers: list[str], seed: int = 0) -> Sample:
    """Noise with one half mask for each `[SEG]`."""
    rng = np.random.default_rng(seed)
    count = sum(answer.count("[SEG]") for answer in answers)
    masks = np.zeros((count, *size), np.uint8)
    for number, mask in enumerate(masks):
        mask[:, : size[1] * (number + 1) // (count + 1)] = 1
    return Sample(
        image_path=f"{size}.png",
        image=rng.integers(0, 255, (*size, 3), dtype=np.uint8),
        conversations=[
            build_prompt([(user_turn(f"{QUESTION} {n}"), answer)])
            for n, answer in enumerate(answers)
        ],
        masks=masks,
        exists=["[SEG]" in answer for answer in answers],
    )


def logits_of(reader, samples: list[Sample]) -> list[torch.Tensor]:
    with torch.no_grad():
        return reader.model(collate(samples, reader.tokenizer)).mask_logits


# --- which mask belongs to which image ----------------------------------------------------


@pytest.mark.parametrize(
    "answers",
    [
        [[NO, YES], [YES]],
        [[NO], [NO, YES, NO, YES], [YES]],
        [[YES], [NO], ["Both [SEG] and [SEG].", NO]],
    ],
)
def test_masks_keep_their_image_whatever_precedes_them(reader, answers):
    """An expression without `[SEG]` moves neither sizes nor masks of those behind it."""
    sizes = [(40, 64), (52, 33), (21, 47)]
    samples = [
        make_sample(size, given, seed)
        for seed, (size, given) in enumerate(zip(sizes, answers, strict=False))
    ]
    together = logits_of(reader, samples)
    for sample, logits in zip(samples, together, strict=True):
        (alone,) = logits_of(reader, [sample])
        assert logits.shape == alone.shape == sample.masks.shape
        assert torch.allclose(logits, alone, atol=1e-4)


def test_every_seg_gets_its_own_mask_in_order(reader):
    sample = make_sample((40, 64), ["It is [SEG] and [SEG].", NO, "[SEG]"])
    (logits,) = logits_of(reader, [sample])
    for n, answer in [(0, "It is [SEG] and [SEG]."), (2, "[SEG]")]:
        forced = reader.segment(sample.image, f"{QUESTION} {n}", answer=answer)
        first = 0 if n == 0 else 2
        for place, segment in enumerate(forced.segments):
            assert np.abs(segment.logits - logits[first + place].numpy()).max() <= 1e-4


def test_padding_side_changes_no_mask(reader):
    samples = [make_sample((40, 64), [YES, "Yes, I see it clearly, there: [SEG]."])]
    right = logits_of(reader, samples)[0]
    with torch.no_grad():
        batch = collate(samples, reader.tokenizer, padding="left")
        batch_positions = reader.model(batch).mask_logits[0]
    assert torch.allclose(right, batch_positions, atol=1e-3)


def test_masks_and_seg_tokens_must_match(reader):
    batch = collate([make_sample((40, 64), [YES, YES])], reader.tokenizer)
    batch.masks[0] = batch.masks[0][:1]
    with pytest.raises(ValueError, match="one mask is needed for each"):
        reader.model(batch)


# --- losses and gradients -------------------------------------------------------------------


def trained(reader, samples):
    """The model after one backward pass with its trainable parts open (no LoRA)."""
    model = add_lora(reader.model, r=0)
    model.train()
    output = model(collate(samples, reader.tokenizer))
    output.loss.backward()
    return model, SimpleNamespace(
        **{k: v.detach() if isinstance(v, torch.Tensor) else v for k, v in output.items()}
    )


def test_a_batch_without_any_mask_trains_on_its_text(reader):
    model, output = trained(reader, [make_sample((40, 64), [NO]), make_sample((20, 30), [NO, NO])])
    assert float(output.mask_loss) == float(output.mask_bce_loss) == 0
    assert float(output.loss) == float(output.ce_loss) > 0
    assert [tuple(logits.shape) for logits in output.mask_logits] == [(0, 40, 64), (0, 20, 30)]
    core = model.model
    quiet = [*core.visual_model.mask_decoder.parameters(), *core.text_hidden_fcs.parameters()]
    assert len(quiet) > 100
    assert all(p.grad is not None and not p.grad.any() for p in quiet)
    assert model.lm_head.weight.grad.any() and core.embed_tokens.weight.grad.any()


def test_a_batch_with_masks_reaches_everything_that_trains(reader):
    model, output = trained(reader, [make_sample((40, 64), [YES, NO])])
    assert torch.isfinite(output.loss)
    names = {name for name, p in model.named_parameters() if p.grad is not None and p.grad.any()}
    for part in ("lm_head", "embed_tokens", "text_hidden_fcs.0.0", "text_hidden_fcs.0.2"):
        assert any(part in name for name in names), part
    assert any("mask_decoder.transformer" in name for name in names)
    frozen = ("vision_tower", "mm_projector", "image_encoder", "prompt_encoder", "layers.0.mlp")
    assert not any(part in name for part in frozen for name in names if "mask_decoder" not in name)


def test_points_carry_gradients_to_the_image_tokens(reader):
    """With the text prompt cut off, DtoC alone still moves the language model."""
    reader.model.model.text_hidden_fcs[0].register_forward_hook(lambda _, __, out: out.detach())
    reader.model.config.ce_loss_weight = 0.0
    model, _ = trained(reader, [make_sample((40, 64), [YES])])
    assert model.model.embed_tokens.weight.grad.abs().max() > 0


def test_losses_within_the_bound_are_those_of_full_size(reader):
    batch = collate(
        [make_sample((40, 64), [YES, NO]), make_sample((20, 30), [YES])], reader.tokenizer
    )
    with torch.no_grad():
        full = reader.model(batch)
        reader.model.config.max_loss_pixels = 40 * 64
        bounded = reader.model(batch)
    for name in ("loss", "mask_bce_loss", "mask_dice_loss"):
        assert torch.equal(full[name], bounded[name])
    for one, other in zip(full.mask_logits, bounded.mask_logits, strict=True):
        assert torch.equal(one, other)


def test_losses_above_the_bound_are_computed_in_a_smaller_size(reader):
    """Points and prompts stay where they are; the last step of the logits leads to another size."""
    samples = [make_sample((200, 320), [YES, NO]), make_sample((20, 30), [YES, YES]),
               make_sample((50, 100), [NO])]  # fmt: skip
    batch = collate(samples, reader.tokenizer)
    sam, made = reader.model.model.visual_model, []
    upscale = sam.upscale
    sam.upscale = lambda low, frame, size: made.append((low, frame)) or upscale(low, frame, size)
    with torch.no_grad():
        full = reader.model(batch)
    lows, made[:] = list(made), []
    reader.model.config.max_loss_pixels = 2560
    model, bounded = trained(reader, samples)
    assert [tuple(x.shape) for x in bounded.mask_logits] == [(1, 40, 64), (2, 20, 30), (0, 35, 71)]
    for (low, frame), (again, same_frame) in zip(lows, made, strict=True):
        torch.testing.assert_close(low, again.detach(), rtol=1e-4, atol=1e-4)
        assert frame == same_frame
    wanted = upscale(lows[0][0], lows[0][1], (40, 64))
    torch.testing.assert_close(bounded.mask_logits[0].detach(), wanted, rtol=1e-4, atol=1e-4)

    config, parts = reader.model.config, [[], []]
    truths = [batch.masks[0][:, ::5, ::5], batch.masks[1]]  # of blocks of 5 x 5
    for logits, truth in zip(bounded.mask_logits, truths, strict=False):
        for one, target in zip(logits.detach(), (truth == 1).float(), strict=True):
            parts[0].append(F.binary_cross_entropy_with_logits(one, target))
            share = one.sigmoid()
            parts[1].append(1 - 2 * (share * target).sum() / (share.sum() + target.sum()))
    for name, values, weight in (
        ("mask_bce_loss", parts[0], config.bce_loss_weight),
        ("mask_dice_loss", parts[1], config.dice_loss_weight),
    ):
        wanted = weight * float(torch.stack(values).mean())
        assert float(getattr(bounded, name)) == pytest.approx(wanted, rel=1e-3)
        assert float(getattr(bounded, name)) != float(full[name])
    for part in (model.model.text_hidden_fcs, model.model.visual_model.mask_decoder.transformer):
        assert all(p.grad is not None for p in part.parameters())
        assert any(p.grad.any() for p in part.parameters())


def test_loss_weights(reader):
    batch = collate([make_sample((40, 64), [YES, NO])], reader.tokenizer)
    config = reader.model.config
    with torch.no_grad():
        before = reader.model(batch)
        config.ce_loss_weight, config.bce_loss_weight, config.dice_loss_weight = 3.0, 1.0, 4.0
        after = reader.model(batch)
    assert float(after.ce_loss) == pytest.approx(3 * float(before.ce_loss), rel=1e-5)
    assert float(after.mask_bce_loss) == pytest.approx(float(before.mask_bce_loss) / 2, rel=1e-5)
    assert float(after.mask_dice_loss) == pytest.approx(8 * float(before.mask_dice_loss), rel=1e-5)
    total = after.ce_loss + after.mask_bce_loss + after.mask_dice_loss
    assert float(after.loss) == pytest.approx(float(total), rel=1e-6)
    assert float(after.mask_loss) == pytest.approx(
        float(after.mask_bce_loss + after.mask_dice_loss), rel=1e-6
    )


def test_encoders_and_projection_do_no_more_than_they_must(reader):
    rows: dict[str, list[int]] = {"clip": [], "sam": [], "projection": []}
    core = reader.model.model
    for name, module in (
        ("clip", core.vision_tower.clip),
        ("sam", core.visual_model.image_encoder),
        ("projection", core.text_hidden_fcs[0]),
    ):
        module.register_forward_pre_hook(lambda _, args, kept=rows[name]: kept.append(len(args[0])))
    logits_of(reader, [make_sample((40, 64), [YES, NO, YES]), make_sample((20, 30), [NO, NO])])
    assert rows == {"clip": [2], "sam": [1], "projection": [2]}


def test_gradient_checkpointing_changes_no_gradient(reader):
    samples = [make_sample((40, 64), [YES, NO])]
    other = copy.copy(reader)
    other.model = copy.deepcopy(reader.model)
    enable = getattr(other.model, "activation_checkpointing_enable", None)
    (enable or other.model.gradient_checkpointing_enable)({"use_reentrant": False})
    plain, _ = trained(reader, samples)
    checkpointed, _ = trained(other, samples)
    for (name, one), (_, two) in zip(
        plain.named_parameters(), checkpointed.named_parameters(), strict=True
    ):
        if one.grad is not None:
            assert torch.allclose(one.grad, two.grad, rtol=1e-4, atol=1e-6), name


# --- dtypes and settings --------------------------------------------------------------------


def test_bf16_trains_and_answers(reader, image):
    exact = reader.segment(image, QUESTION, answer=YES).segments[0]
    reader.model.to(torch.bfloat16)
    near = reader.segment(image, QUESTION, answer=YES).segments[0]
    assert near.logits.dtype == np.float32 and np.isfinite(near.logits).all()
    correlation = np.corrcoef(near.logits.ravel(), exact.logits.ravel())[0, 1]
    assert correlation > 0.9
    assert reader.segment(image, QUESTION, max_new_tokens=3).token_ids

    model, output = trained(reader, [make_sample((40, 64), [YES, NO])])
    assert torch.isfinite(output.loss)
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            assert parameter.grad.dtype == torch.bfloat16, name
            assert torch.isfinite(parameter.grad).all(), name


def test_a_model_that_does_not_know_seg_says_so(reader):
    reader.model.config.seg_token_id = None
    with pytest.raises(InputError, match=r"id of \[SEG\]"):
        logits_of(reader, [make_sample((40, 64), [YES])])


# --- ranks in step --------------------------------------------------------------------------

UNEVEN = [[[YES], [NO]], [[NO], [NO, NO]], [[YES, NO, YES], ["[SEG] and [SEG]."]]]
"""Answers about two images: a mask for one of them, for none, for both."""


def two_images(answers: list[list[str]]) -> list[Sample]:
    return [make_sample(size, a, 5) for size, a in zip([(40, 64), (52, 33)], answers, strict=True)]


def modules_run(reader, samples: list[Sample]) -> list[str]:
    """Names of the innermost modules in the order in which forward and backward come to them."""
    model = add_lora(copy.deepcopy(reader.model), r=0)
    names: list[str] = []

    def note(name: str, output: torch.Tensor | tuple[torch.Tensor, ...]) -> None:
        names.append(name)
        for tensor in output if isinstance(output, tuple) else (output,):
            if tensor.requires_grad:
                tensor.register_hook(lambda _: names.append(f"backward {name}"))

    for name, module in model.named_modules():
        if not list(module.children()):
            module.register_forward_hook(lambda _, __, output, name=name: note(name, output))
    model(collate(samples, reader.tokenizer)).loss.backward()
    return names


def test_in_step_every_batch_runs_the_same_modules(reader):
    runs = [modules_run(reader, two_images(answers)) for answers in UNEVEN]
    assert runs[0] != runs[1]
    reader.model.uniform_forward = True
    runs = [modules_run(reader, two_images(answers)) for answers in UNEVEN]
    assert runs[0] == runs[1] == runs[2]
    assert any("backward model.visual_model.mask_decoder" in name for name in runs[0])


@pytest.mark.parametrize("answers", UNEVEN)
def test_in_step_losses_and_gradients_are_the_same(reader, answers):
    found = []
    for uniform_forward in (False, True):
        reader.model.uniform_forward = uniform_forward
        reader.model.zero_grad()
        model, output = trained(reader, two_images(answers))
        gradients = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
        found.append((output, gradients))
    (one, expected), (other, gradients) = found
    for name in ("loss", "ce_loss", "mask_bce_loss", "mask_dice_loss"):
        torch.testing.assert_close(getattr(other, name), getattr(one, name), rtol=1e-5, atol=1e-6)
    for name, value in expected.items():
        if name in gradients:
            torch.testing.assert_close(gradients[name], value, rtol=1e-3, atol=1e-5, msg=name)
        else:
            assert not value.any()
