"""Our wiring of SAM against the package's own forward, and the losses against their formulas."""

import math

import pytest
import torch
from segment_anything.modeling.image_encoder import Attention

from model.losses import (
    bce_per_mask,
    dice_per_mask,
    loss_size,
    mask_losses,
    shrink_truth,
    token_loss,
    zero_of,
)
from model.outputs import ImageContext
from model.sam import SamModel, sam_sizes
from model.sam_attention import EncoderAttention
from tests.released_tiny import SMALL_SAM, fill_by_formula


@pytest.fixture(scope="module")
def sam() -> SamModel:
    model = SamModel(sam_sizes(SMALL_SAM)).eval()
    fill_by_formula(model)
    return model


@torch.no_grad()
def test_decoding_is_that_of_the_package(sam):
    """Masks of two images at once, as the package gives them one by one."""
    generator = torch.Generator().manual_seed(0)
    embeddings = torch.randn(2, 256, 8, 8, generator=generator)
    points = 60 * torch.rand(2, 5, 2, generator=generator)
    labels = torch.tensor([[1, 0, -1, 1, 1], [0, 1, 1, -1, -1]])
    text = torch.randn(2, 256, generator=generator)
    size, inner = (64, 96), (85, 128)
    sparse = sam.sparse_prompt(points, labels, text, size, inner)
    assert sparse.shape == (2, 7, 256)
    low, scores = sam.decode(embeddings, sparse)
    scaled = points * torch.tensor([inner[1] / size[1], inner[0] / size[0]])
    for number in range(2):
        one = slice(number, number + 1)
        tokens, dense = sam.prompt_encoder(
            points=(scaled[one], labels[one]), boxes=None, masks=None
        )
        expected, iou = sam.mask_decoder(
            image_embeddings=embeddings[one],
            image_pe=sam.prompt_encoder.get_dense_pe(),
            sparse_prompt_embeddings=torch.cat([tokens, text[one, None]], dim=1),
            dense_prompt_embeddings=dense,
            multimask_output=False,
        )
        assert torch.allclose(low[one], expected, atol=1e-4)
        assert torch.allclose(scores[one], iou[:, 0], atol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("empty", [0, 1])
@pytest.mark.parametrize("most_masks", [None, 2])
def test_prompts_of_several_images_decode_as_each_alone(sam, empty, most_masks):
    """Of different lengths, an image twice, cut into portions, and one without a mask."""
    generator = torch.Generator().manual_seed(1)
    images = [
        ImageContext(torch.randn(1, 256, 8, 8, generator=generator), (85, 128), (64, 96))
        for _ in range(2)
    ]
    images = [images[0], images[1], images[0], images[1]]
    shapes = [(3, 1), (2, 6), (1, 6), (2 - 2 * empty, 1)]
    prompts = [torch.randn(*shape, 256, generator=generator) for shape in shapes]
    calls = []
    hook = sam.mask_decoder.transformer.register_forward_pre_hook(lambda _, x: calls.append(x))
    decoded = sam.decode_prompts(images, prompts, most_masks)
    apart = sam.decode_prompts(images, prompts, separate=True)
    hook.remove()
    together = 4 if empty else 5 if most_masks else 2
    assert len(calls) == together + len(prompts)
    for image, prompt, *pairs in zip(images, prompts, decoded, apart, strict=True):
        alone = sam.decode(image.embedding.expand(len(prompt), -1, -1, -1), prompt)
        assert len(alone[0]) == len(prompt)
        for pair in pairs:
            torch.testing.assert_close(pair, alone, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_a_neutral_point_carries_no_position(sam):
    text, labels = torch.zeros(1, 256), torch.tensor([[1, -1]])
    points = torch.tensor([[[3.0, 4.0], [5.0, 6.0]]])
    other = torch.tensor([[[3.0, 4.0], [50.0, 60.0]]])
    frames = ((64, 64), (128, 128))
    one = sam.sparse_prompt(points, labels, text, *frames)
    assert torch.equal(one, sam.sparse_prompt(other, labels, text, *frames))
    assert sam.sparse_prompt(points[:, :0], labels[:, :0], text, *frames).shape == (1, 1, 256)


def test_upscaling_crops_the_padding(sam):
    low = torch.full((1, 1, 32, 32), -1.0)
    low[..., :16, :] = 1.0
    whole = sam.upscale(low, (64, 128), (30, 60))
    assert whole.shape == (1, 30, 60) and whole.dtype == torch.float32
    assert (whole > 0).float().mean() > 0.95
    assert sam.upscale(low[:0], (64, 128), (30, 60)).shape == (0, 30, 60)


def test_losses_by_hand():
    logits = torch.tensor([[[0.0, 2.0], [-1.0, 0.5]]])
    truth = torch.tensor([[[0.0, 1.0], [1.0, 0.0]]])
    pairs = list(zip(logits.flatten().tolist(), truth.flatten().tolist(), strict=True))
    share = [1 / (1 + math.exp(-x)) for x, _ in pairs]
    bce = [-math.log(p if t else 1 - p) for p, (_, t) in zip(share, pairs, strict=True)]
    overlap = 2 * sum(p * t for p, (_, t) in zip(share, pairs, strict=True)) / 1000
    total = (sum(share) + sum(t for _, t in pairs)) / 1000
    dice = 1 - (overlap + 1e-6) / (total + 1e-6)
    assert float(bce_per_mask(logits, truth)) == pytest.approx(sum(bce) / 4, rel=1e-6)
    assert float(dice_per_mask(logits, truth)) == pytest.approx(dice, rel=1e-5)


def test_every_mask_counts_the_same_whatever_its_size():
    logits = [torch.zeros(1, 4, 4), torch.full((2, 40, 40), 3.0)]
    truths = [torch.zeros(1, 4, 4, dtype=torch.uint8), torch.ones(2, 40, 40, dtype=torch.uint8)]
    bce, _ = mask_losses(logits, truths)
    expected = (math.log(2) + 2 * math.log(1 + math.exp(-3))) / 3
    assert float(bce) == pytest.approx(expected, rel=1e-5)


def test_255_is_background_in_training():
    truth = torch.tensor([[[1, 255], [0, 0]]], dtype=torch.uint8)
    plain = torch.tensor([[[1, 0], [0, 0]]], dtype=torch.uint8)
    logits = torch.randn(1, 2, 2, generator=torch.Generator().manual_seed(0))
    assert mask_losses([logits], [truth]) == mask_losses([logits], [plain])


def test_the_size_of_bounded_losses():
    assert loss_size((1700, 2600), 0) == (1700, 2600)
    assert loss_size((60, 80), 4800) == (60, 80)
    for size, most in (((1700, 2600), 500_000), ((61, 79), 4800), ((9, 9), 1)):
        height, width = loss_size(size, most)
        assert 0 < height * width <= most and height <= size[0] and width <= size[1]
    height, width = loss_size((1700, 2600), 500_000)
    assert height * width > 498_000 and abs(width / height - 2600 / 1700) < 0.005


@pytest.mark.parametrize(("size", "small"), [((60, 84), (20, 21)), ((40, 40), (20, 40))])
def test_truth_is_what_covers_half_of_a_pixel(size, small):
    generator = torch.Generator().manual_seed(0)
    truth = torch.randint(0, 3, (3, *size), generator=generator, dtype=torch.uint8)
    truth[truth == 2] = 255
    rows, columns = size[0] // small[0], size[1] // small[1]
    shares = (truth.numpy() == 1).reshape(3, small[0], rows, small[1], columns).mean(axis=(2, 4))
    found = shrink_truth(truth, small)
    assert found.dtype == torch.uint8 and (found.numpy() == (shares >= 0.5)).all()
    assert 0 < found.float().mean() < 1
    assert shrink_truth(truth, size) is truth
    assert shrink_truth(truth[:0], small).shape == (0, *small)


def test_bounded_losses_of_a_disc_are_near_those_of_full_size():
    y, x = torch.meshgrid(torch.arange(600.0), torch.arange(800.0), indexing="ij")
    distance = ((x - 300) ** 2 + (y - 200) ** 2).sqrt()
    logits, truth = ((150 - distance) / 20)[None], (distance < 160)[None].to(torch.uint8)
    full = mask_losses([logits], [truth])
    small = torch.nn.functional.interpolate(logits[None], size=loss_size((600, 800), 50_000))[0]
    bounded = mask_losses([small], [truth], 50_000)
    torch.testing.assert_close(bounded, full, rtol=0.02, atol=0)
    with pytest.raises(ValueError, match="one mask is needed"):
        mask_losses([logits], [truth], 50_000)


def test_nothing_to_train_on():
    empty = torch.zeros(0, 3, 3)
    assert mask_losses([empty], [empty.byte()]) is None
    logits = torch.zeros(0, 7, requires_grad=True)
    loss = token_loss(logits, torch.zeros(0, dtype=torch.int64))
    loss.backward()
    assert float(loss.detach()) == 0 and logits.grad is not None
    trained, frozen = torch.nn.Linear(3, 1), torch.nn.Linear(3, 1).requires_grad_(False)
    zero_of(trained, frozen).backward()
    assert trained.weight.grad.tolist() == [[0, 0, 0]] and frozen.weight.grad is None


def test_losses_keep_no_map_but_their_arguments():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(3, 40, 50, generator=generator, requires_grad=True)
    truth = torch.randint(0, 2, (3, 40, 50), generator=generator).byte()
    kept = {}

    def keep(saved):
        kept[saved.untyped_storage().data_ptr()] = saved.untyped_storage().nbytes()
        return saved

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda saved: saved):
        bce, dice = mask_losses([logits], [truth])
    assert sum(kept.values()) <= logits.nbytes + truth.nbytes + 100
    (2 * bce + dice).backward()

    plain = logits.detach().clone().requires_grad_()
    target = truth.float()
    (2 * bce_per_mask(plain, target) + dice_per_mask(plain, target)).mean().backward()
    assert torch.allclose(logits.grad, plain.grad, rtol=1e-5, atol=1e-12)


@pytest.mark.parametrize("global_layers", [[1], []])
def test_fused_attention_is_the_packages(global_layers):
    sizes = {**SMALL_SAM, "depth": 2, "global_attn_indexes": global_layers}
    encoder = SamModel(sam_sizes(sizes)).image_encoder
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.normal_(std=0.3, generator=generator)
    image = torch.randn(2, 3, sizes["image_size"], sizes["image_size"], generator=generator)
    fused = encoder(image)
    for block in encoder.blocks:
        assert type(block.attn) is EncoderAttention
        block.attn.__class__ = Attention
    plain = encoder(image)
    assert (fused - plain).abs().max() <= 1e-5 * plain.abs().max()
