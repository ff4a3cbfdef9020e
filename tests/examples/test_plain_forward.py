"""The page to read first computes what the model computes."""

import numpy as np
import pytest
import torch
from PIL import Image

from dataset.collate import collate
from examples.plain_forward import Row, forward, main
from model import load_read
from model.loading.lora import add_lora
from tests.released_tiny import GOLDEN
from tests.small_read import write_small_read
from utils.protocol.batch import Sample
from utils.protocol.conversation import POSITIVE_ANSWER, build_prompt, user_turn
from utils.protocol.image_files import read_image

CONVERSATIONS = [
    [
        [("Where is the cat?", POSITIVE_ANSWER)],
        [("Is there a boat?", "There is none.")],
        [("Both parts?", "This is [SEG]. And this [SEG]."), ("And the rest?", "Here: [SEG].")],
    ],
    [[("Describe it.", "A street.")]],
    [[("the left one", POSITIVE_ANSWER)]],
]
"""Of three images: turns of each conversation; five masks in all."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_small_read(tmp_path_factory.mktemp("small") / "read")


def samples() -> list[Sample]:
    rng = np.random.default_rng(0)
    made = []
    for number, talks in enumerate(CONVERSATIONS):
        image = read_image(GOLDEN / f"image_{number}.png")
        count = sum(answer.count("[SEG]") for turns in talks for _, answer in turns)
        prompts = [
            build_prompt([(user_turn(turns[0][0]), turns[0][1]), *turns[1:]]) for turns in talks
        ]
        masks = (rng.random((count, *image.shape[:2])) < 0.3).astype(np.uint8)
        made.append(Sample(f"{number}", image, prompts, masks, [True] * len(talks)))
    return made


def rows_of(batch, images) -> list[Row]:
    """The batch without its padding, one conversation per row."""
    masks = [iter(stack) for stack in batch.masks]
    rows = []
    for ids, labels, keep, image in zip(
        batch.input_ids, batch.labels, batch.attention_mask, batch.image_index.tolist(), strict=True
    ):
        ids = ids[keep]
        truth = [next(masks[image]) for _ in range(int((ids == 800).sum()))]
        rows.append(Row(images[image], ids, labels[keep], [one.float() for one in truth]))
    return rows


def test_losses_masks_and_gradients_equal_the_models(folder):
    reader = load_read(folder)
    model, given = reader.model, samples()
    model.config.dice_loss_weight = 0.7  # not the others' weights, so that a mix-up shows
    add_lora(model, r=0)  # opens what READ trains in full
    batch = collate(given, reader.tokenizer)
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert len(trained) > 100

    output = model(batch)
    output.loss.backward()
    expected = {name: p.grad.clone() for name, p in trained.items() if p.grad is not None}
    model.zero_grad(set_to_none=True)
    plain = forward(model, rows_of(batch, [sample.image for sample in given]))
    plain["loss"].backward()

    for name in ("loss", "ce_loss", "mask_bce_loss", "mask_dice_loss"):
        assert float(plain[name].detach()) == pytest.approx(float(output[name].detach()), abs=1e-5)
    logits = [mask for stack in output.mask_logits for mask in stack]
    assert len(plain["mask_logits"]) == len(logits) == 5
    for mask, other in zip(plain["mask_logits"], logits, strict=True):
        assert (mask - other).abs().max() <= 1e-5 * other.abs().max()
    assert {n for n, p in trained.items() if p.grad is not None} >= expected.keys()
    for name, gradient in expected.items():
        scale = max(float(gradient.abs().max()), 1e-4)
        assert float((trained[name].grad - gradient).abs().max()) <= 1e-4 * scale, name


def test_the_command_writes_the_mask_of_segment(folder, tmp_path, capsys):
    image, question = GOLDEN / "image_1.png", "Where is the dog?"
    main([str(folder), str(image), question, str(tmp_path / "mask.png")])
    answer = load_read(folder).segment(str(image), question, answer=POSITIVE_ANSWER)
    written = np.array(Image.open(tmp_path / "mask.png"))
    assert (written != answer.mask).mean() < 1e-3
    assert f"{int(written.sum())} of {answer.mask.size} pixels" in capsys.readouterr().out
    assert torch.is_grad_enabled()
