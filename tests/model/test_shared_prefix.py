"""Conversations that share an image's row: the same losses and gradients as rows of their own."""

import numpy as np
import pytest
import torch
from transformers import AttentionInterface, AttentionMaskInterface

from dataset.collate import collate
from model import read_model
from model.loading.lora import add_lora, unwrap
from model.shared_prefix import PADDING, pack_shared_prefix, same_attention
from tests.model.conftest import QUESTION
from utils.protocol.batch import Sample
from utils.protocol.conversation import POSITIVE_ANSWER, build_prompt, user_turn

YES, NO = POSITIVE_ANSWER, "No, I do not see it."
LONG = "There are several of them here, and the one that was asked for is [SEG]."
TOLERANCE = 1e-5
"""Of a loss, and of a gradient as a part of the largest one in its parameter (float32)."""

V = 4
IMAGE = -200


def prompts(*answers: str) -> list[str]:
    return [
        build_prompt([(user_turn(f"{QUESTION} {'And so on. ' * n}"), answer)])
        for n, answer in enumerate(answers)
    ]


def sample(size: tuple[int, int], conversations: list[str], seed: int = 0) -> Sample:
    rng = np.random.default_rng(seed)
    count = sum(text.count("[SEG]") for text in conversations)
    masks = np.zeros((count, *size), np.uint8)
    for number, mask in enumerate(masks):
        mask[:, : size[1] * (number + 1) // (count + 1)] = 1
    image = rng.integers(0, 255, (*size, 3), dtype=np.uint8)
    return Sample(f"{seed}.png", image, conversations, masks, ["[SEG]" in c for c in conversations])


VQA = build_prompt(
    [
        (user_turn("What is this?"), "A street with two cars."),
        ("Which one is red?", "The left one."),
        ("Are you sure?", "Yes."),
    ]
)
WITHOUT_IMAGE = build_prompt([("What is a car?", "A thing with four wheels.")])
OTHER_SYSTEM = prompts(YES)[0].replace("A chat between", "Words of")
CASES = {
    "one to three questions": [prompts(YES), prompts(NO, YES, LONG), prompts(LONG, YES)],
    "several masks in an answer": [prompts("Both [SEG] and [SEG].", NO, YES)],
    "no mask": [prompts(NO, NO), prompts(NO)],
    "several turns": [[VQA], [VQA, *prompts(YES)], prompts(NO)],
    "without an image": [[*prompts(YES), WITHOUT_IMAGE, *prompts(NO)], [WITHOUT_IMAGE]],
    "another text before the image": [[*prompts(YES, NO), OTHER_SYSTEM], [OTHER_SYSTEM]],
    "twice the same": [[*prompts(YES), *prompts(YES)]],
    "one the begin of the other": [[prompts(YES)[0].removesuffix("</s>"), *prompts(YES)]],
}


def batch_of(reader, conversations: list[list[str]], padding: str = "right"):
    sizes = [(40, 64), (52, 33), (21, 47)]
    samples = [
        sample(size, texts, seed)
        for seed, (size, texts) in enumerate(zip(sizes, conversations, strict=False))
    ]
    return collate(samples, reader.tokenizer, padding=padding)


def step(model, batch) -> tuple[dict[str, float], dict[str, torch.Tensor], torch.Size]:
    """Losses, the gradients, and the shape of what went through the decoder layers."""
    shapes = []
    hook = unwrap(model).model.norm.register_forward_pre_hook(
        lambda _, args: shapes.append(args[0].shape[:2])
    )
    model.train()
    model.zero_grad()
    output = model(batch)
    output.loss.backward()
    hook.remove()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    return {n: v.item() for n, v in output.items() if "loss" in n}, gradients, shapes[0]


def compare(model, batch, monkeypatch) -> tuple[torch.Size, torch.Size]:
    """A step gives the same both ways; returns the rows and positions of each."""
    losses, gradients, packed = step(model, batch)
    with monkeypatch.context() as changed:
        changed.setattr(read_model, "pack_shared_prefix", lambda *_: None)
        expected_losses, expected, separate = step(model, batch)
    for name, loss in expected_losses.items():
        assert losses[name] == pytest.approx(loss, rel=TOLERANCE), name
    # Some gradients are zero but for rounding: keys' biases do not change a softmax.
    rounding = 1e-7 * max(gradient.abs().max().item() for gradient in expected.values())
    assert gradients.keys() == expected.keys()
    for name, gradient in expected.items():
        allowed = TOLERANCE * gradient.abs().max() + rounding
        assert (gradients[name] - gradient).abs().max() <= allowed, name
    return packed, separate


@pytest.mark.parametrize("padding", ["right", "left"])
@pytest.mark.parametrize("case", CASES)
def test_losses_and_gradients(reader, monkeypatch, case, padding):
    batch = batch_of(reader, CASES[case], padding)
    packed, separate = compare(add_lora(reader.model, r=0), batch, monkeypatch)
    assert packed[0] < separate[0] == len(batch.input_ids)
    assert packed.numel() < separate.numel()


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_with_lora_and_gradient_checkpointing(reader, monkeypatch, attention):
    reader.model.set_attn_implementation(attention)
    checkpoint(reader.model)
    torch.manual_seed(0)
    model = add_lora(reader.model, r=4, dropout=0.0, target_modules="q_proj,v_proj,down_proj")
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    batch = batch_of(reader, CASES["one to three questions"])
    packed, separate = compare(model, batch, monkeypatch)
    assert (packed[0], separate[0]) == (3, 6)
    assert all(p.grad.any() for n, p in model.named_parameters() if "lora_" in n)
    assert reader.model.config._attn_implementation == attention


def checkpoint(model) -> None:
    """As `build_for_training` switches it on."""
    enable = getattr(model, "activation_checkpointing_enable", None)
    (enable or model.gradient_checkpointing_enable)(
        {"use_reentrant": False, "context_fn": same_attention(model.config)}
    )


def test_attention_without_masks_is_replaced_also_when_recomputed(reader, monkeypatch):
    """FlashAttention needs a GPU; this stand-in takes the same masks of padding, and no others."""
    calls = []

    def attend(module, query, key, value, attention_mask, **kwargs):
        assert attention_mask.dim() == 2
        calls.append(len(query))
        rows = torch.finfo(query.dtype).min * ~attention_mask[:, None, None].bool()
        causal = torch.ones(2 * [query.shape[2]], dtype=torch.bool).tril()
        rows = torch.where(causal, rows, torch.finfo(query.dtype).min)
        made = torch.nn.functional.scaled_dot_product_attention(query, key, value, rows)
        return made.transpose(1, 2).contiguous(), None

    AttentionInterface.register("stand_in", attend)
    AttentionMaskInterface.register(
        "stand_in", lambda *args, attention_mask=None, **kwargs: attention_mask
    )
    reader.model.config._attn_implementation = "stand_in"
    checkpoint(reader.model)
    batch = batch_of(reader, CASES["one to three questions"])
    compare(add_lora(reader.model, r=0), batch, monkeypatch)
    layers = reader.model.config.num_hidden_layers
    assert calls == [6] * (2 * layers)  # none for the packed rows; twice for separate ones
    assert reader.model.config._attn_implementation == "stand_in"


def test_questions_do_not_see_each_other(reader):
    def states(*answers):
        batch = batch_of(reader, [prompts(*answers)])
        features = reader.model.encode_clip(torch.zeros(1, 3, 336, 336))
        found = reader.model.prompt_states(
            batch.input_ids, batch.attention_mask, features, batch.image_index
        )
        return [
            hidden[place[mask]]
            for hidden, place, mask in zip(
                found.hidden, found.text_position, batch.attention_mask, strict=True
            )
        ]

    with torch.no_grad():
        before, after = states(YES, NO, YES), states(YES, LONG, YES)
    assert torch.allclose(before[0], after[0], atol=1e-5)
    assert torch.allclose(before[2], after[2], atol=1e-5)
    assert before[1].shape != after[1].shape


# --- the packing itself ---------------------------------------------------------------------


def packing_of(*rows: list[int], images: list[int], padding: str = "right"):
    width = max(map(len, rows))
    ids = torch.zeros(len(rows), width, dtype=torch.int64)
    used = torch.zeros_like(ids, dtype=torch.bool)
    for number, row in enumerate(rows):
        place = slice(0, len(row)) if padding == "right" else slice(width - len(row), width)
        ids[number, place], used[number, place] = torch.tensor(row), True
    return pack_shared_prefix(ids, used, torch.tensor(images), V), ids


@pytest.mark.parametrize("padding", ["right", "left"])
def test_rows_by_hand(padding):
    rows = [1, IMAGE, 5, 6, 7], [1, IMAGE, 5, 8], [1, 2], [1, IMAGE, 5, 6]
    packing, ids = packing_of(*rows, images=[0, 0, 0, 1], padding=padding)
    # The first two share 1, four image tokens and 5; the others have rows of their own.
    p = PADDING
    assert packing.segment_id.tolist() == [
        [0, 0, 0, 0, 0, 0, 1, 1, 2],
        [1, 1, p, p, p, p, p, p, p],
        [1, 1, 1, 1, 1, 1, 1, p, p],
    ]
    assert packing.position.tolist() == [
        [0, 1, 2, 3, 4, 5, 6, 7, 6],
        [0, 1, 0, 0, 0, 0, 0, 0, 0],
        [0, 1, 2, 3, 4, 5, 6, 0, 0],
    ]
    separate = torch.arange(4 * (5 + V - 1)).view(4, -1, 1)
    back = packing.unpack(packing.pack(separate))[..., 0]
    shifts = [0, 0, 0, 0] if padding == "right" else [0, 1, 3, 1]
    for number, (row, shift) in enumerate(zip(rows, shifts, strict=True)):
        length = len(row) + (V - 1 if IMAGE in row else 0)
        own = slice(shift, shift + length)
        # What is shared comes from the row of the first.
        first = separate[0, :6, 0] if number == 1 else separate[number, own, 0][:6]
        assert back[number, own].tolist() == [*first, *separate[number, own, 0][6:]]


def test_who_sees_whom():
    packing, _ = packing_of([1, IMAGE, 5, 6], [1, IMAGE, 7], [2], images=[0, 0, 1])
    # prefix 1 and the image (0-4), 5 6, 7; the other row: 2 and padding
    added = packing.mask(torch.bfloat16)
    assert added.shape == (2, 1, 8, 8) and added.dtype == torch.bfloat16
    assert set(added.flatten().tolist()) == {0.0, torch.finfo(torch.bfloat16).min}
    seen = added == 0
    assert [row.nonzero().flatten().tolist() for row in seen[0, 0]] == [
        *([*range(n + 1)] for n in range(5)),
        [0, 1, 2, 3, 4, 5],
        [0, 1, 2, 3, 4, 5, 6],
        [0, 1, 2, 3, 4, 7],
    ]
    assert bool(seen.any(dim=-1).all())
    assert not seen[1, 0, 0, 1:].any()


@pytest.mark.parametrize(
    ("rows", "images"),
    [
        ([[1, IMAGE, 5], [1, IMAGE, 5]], [0, 1]),
        ([[1, IMAGE, 5], [2, IMAGE, 5]], [0, 0]),
        ([[1, 5], [1, 5]], [0, 0]),
        ([[1, IMAGE, 5], [1, 5]], [0, 0]),
    ],
)
def test_nothing_to_share(rows, images):
    assert packing_of(*rows, images=images)[0] is None


def test_padding_inside_a_row_is_left_alone():
    ids = torch.tensor([[1, IMAGE, 5, 6], [1, IMAGE, 5, 6]])
    used = torch.tensor([[True, True, False, True], [True, True, True, True]])
    assert pack_shared_prefix(ids, used, torch.tensor([0, 0]), V) is None
    used = torch.tensor([[True, False, False, False], [True, True, True, True]])
    assert pack_shared_prefix(ids, used, torch.tensor([0, 0]), V) is None
