"""The cache of rows and images: what is written where, growing, moving, and its attention."""

from types import SimpleNamespace

import pytest
import torch

from model.inference import prefix_cache
from model.inference.prefix_cache import SharedPrefixCache, attend

HEADS, WIDTH, SHARED = 2, 4, 5


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def image(seed: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """What prompts share, for two layers."""
    shape = (1, HEADS, SHARED, WIDTH)
    return [(random(*shape, seed=seed + n), random(*shape, seed=seed + n + 50)) for n in (0, 1)]


def test_rows_write_their_tokens():
    cache = SharedPrefixCache(2)
    cache.add_image(image(0))
    cache.image_of_row = [0, 0, 0]
    cache.reserve(3, 2)
    cache.set_slice(slice(1, 3), [0, 0], 2)
    new = random(2, HEADS, 2, WIDTH)
    keys, values = cache.update(new, -new, 0)
    assert torch.equal(keys, new) and torch.equal(values, -new)
    assert not cache.rows_of_layers[0].keys[0].any() and not cache.rows_of_layers[1].keys.any()

    cache.set_slice(slice(0, 3), [0, 2, 1], 1)
    one = random(3, HEADS, 1, WIDTH, seed=1)
    keys, values = cache.update(one, -one, 0)
    assert keys.shape == (3, HEADS, 3, WIDTH) and torch.equal(values, -keys)
    assert torch.equal(keys[0, :, 0], one[0, :, 0])
    assert torch.equal(keys[1, :, :2], new[0]) and torch.equal(keys[1, :, 2], one[1, :, 0])
    assert torch.equal(keys[2, :, 0], new[1, :, 0]) and torch.equal(keys[2, :, 1], one[2, :, 0])


def test_growing_keeps_what_is_there(monkeypatch):
    monkeypatch.setattr(prefix_cache, "CHUNK", 4)
    cache = SharedPrefixCache(2)
    cache.add_image(image(0))
    cache.image_of_row = [0]
    cache.reserve(1, 3)
    cache.set_slice(slice(0, 1), [0], 3)
    new = random(1, HEADS, 3, WIDTH)
    cache.update(new, -new, 1)
    cache.reserve(2, 5)
    layer = cache.rows_of_layers[1]
    assert layer.keys.shape == layer.values.shape == (2, HEADS, 8, WIDTH)
    assert torch.equal(layer.keys[:1, :, :3], new) and torch.equal(layer.values[:1, :, :3], -new)
    assert not layer.keys[1:].any() and not layer.keys[:, :, 3:].any()
    cache.reserve(1, 2)
    assert cache.rows_of_layers[1].keys is layer.keys


def test_images_come_and_go():
    cache = SharedPrefixCache(2)
    images = [image(100 * n) for n in range(4)]
    assert [cache.add_image(layers) for layers in images] == [0, 1, 2, 3]
    cache.image_of_row = [0, 3, 2, 3]
    cache.drop_image(1)
    assert cache.images == 3 and cache.image_of_row == [0, 1, 2, 1]
    cache.drop_image(2)
    assert cache.add_image(images[1]) == 2
    for number, held in enumerate((0, 3, 1)):
        for layer, (keys, values) in zip(cache.rows_of_layers, images[held], strict=True):
            assert torch.equal(layer.shared[0][number], keys[0])
            assert torch.equal(layer.shared[1][number], values[0])


def test_a_row_moves_with_its_image():
    cache = SharedPrefixCache(2)
    for seed in (0, 10):
        cache.add_image(image(seed))
    cache.image_of_row = [0, 1]
    cache.reserve(2, 3)
    cache.set_slice(slice(1, 2), [0], 3)
    new = random(1, HEADS, 3, WIDTH)
    cache.update(new, -new, 0)
    cache.move_row(1, 0, 2)
    layer = cache.rows_of_layers[0]
    assert cache.image_of_row == [1, 1]
    assert torch.equal(layer.keys[0, :, :2], new[0, :, :2]) and not layer.keys[0, :, 2:].any()
    assert torch.equal(layer.values[0, :, :2], -new[0, :, :2])


def plain_attention(query, keys, values):
    """Of the last tokens of one head: float[t, d], float[n, d] -> float[t, d]."""
    new, seen = len(query), len(keys)
    scores = query @ keys.T / WIDTH**0.5
    causal = torch.ones(new, seen, dtype=torch.bool).tril(seen - new)
    return scores.masked_fill(~causal, float("-inf")).softmax(dim=-1) @ values


@pytest.mark.parametrize("per_key", [1, 3])
@pytest.mark.parametrize("first", [0, 1])
def test_attention_is_that_of_each_row_alone(per_key, first):
    """Rows of two images in any order: a prefill, then a token at other places."""
    numbers = [2, 1, 2, 2, 1][first:]
    count = len(numbers)
    images = [image(100 * n) for n in range(3)]
    cache = SharedPrefixCache(2)
    for layers in images:
        cache.add_image(layers)
    cache.image_of_row = [0] * first + numbers
    cache.reserve(first + count, 4)
    module = SimpleNamespace(layer_idx=1)
    rows = slice(first, first + count)
    new_keys, new_values = (random(count, HEADS, 3, WIDTH, seed=seed) for seed in (7, 8))
    lengths = [3, 1, 2, 3, 2][first:]

    def check(query, keys, values, ends, new):
        made, _ = attend(module, query, keys, values, None, scaling=WIDTH**-0.5, rows=cache)
        assert made.shape == (count, new, HEADS * per_key, WIDTH)
        for row, (number, end) in enumerate(zip(numbers, ends, strict=True)):
            for head in range(HEADS * per_key):
                shared_keys, shared_values = (p[0, head // per_key] for p in images[number][1])
                alone = plain_attention(
                    query[row, head],
                    torch.cat([shared_keys, keys[row, head // per_key, :end]]),
                    torch.cat([shared_values, values[row, head // per_key, :end]]),
                )
                assert torch.allclose(made[row, :, head], alone, atol=1e-6)

    cache.set_slice(rows, [0] * count, 3)
    keys, values = cache.update(new_keys, new_values, 1)
    check(random(count, HEADS * per_key, 3, WIDTH, seed=9), keys, values, [3] * count, 3)

    cache.set_slice(rows, lengths, 1)
    keys, values = cache.update(new_keys[:, :, :1] + 1, new_values[:, :, :1] - 1, 1)
    ends = [length + 1 for length in lengths]
    check(random(count, HEADS * per_key, 1, WIDTH, seed=10), keys, values, ends, 1)
