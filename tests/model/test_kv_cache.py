"""The cache of rows: what is written where, growing, and rows that move."""

import torch

from model.kv_cache import CHUNK, RowCache, Span


def numbers(rows: int, slots: int, start: int = 0) -> torch.Tensor:
    """Different values float[rows, 2 heads, slots, 3]."""
    return torch.arange(start, start + rows * 2 * slots * 3.0).view(rows, 2, slots, 3)


def filled_prefix(slots: int) -> RowCache:
    cache = RowCache(2)
    cache.set_span(Span(slice(0, 1), 0, slots))
    for layer in range(2):
        cache.update(numbers(1, slots, 100 * layer), -numbers(1, slots, 100 * layer), layer)
    return cache


def test_a_prefix_fills_its_cache():
    cache = filled_prefix(5)
    keys, values = cache.rows_of_layers[1].keys, cache.rows_of_layers[1].values
    assert torch.equal(keys, numbers(1, 5, 100)) and torch.equal(values, -keys)


def test_rows_share_a_prefix_and_go_on_by_themselves():
    prefix, cache = filled_prefix(5), RowCache(2)
    cache.reserve(3, 7, prefix)
    assert (cache.rows, cache.slots) == (3, CHUNK)
    cache.copy_prefix(prefix, slice(0, 3), 5)

    cache.set_span(Span(slice(1, 3), 5, 2))
    assert (cache.get_seq_length(), *cache.get_mask_sizes(2, 0)) == (5, 7, 0)
    new = numbers(2, 2, 1000)
    keys, values = cache.update(new, -new, 0)
    assert keys.shape == (2, 2, 7, 3) and torch.equal(values, -keys)
    assert torch.equal(keys[:, :, :5], numbers(1, 5).expand(2, -1, -1, -1))
    assert torch.equal(keys[:, :, 5:], new)
    assert not cache.rows_of_layers[0].keys[0, :, 5:].any()

    cache.set_span(Span(slice(0, 3), 7, 1, torch.tensor([5, 7, 6])))
    one = numbers(3, 1, 2000)
    keys, _ = cache.update(one, -one, 0)
    assert keys.shape == (3, 2, 8, 3)
    assert torch.equal(keys[0, :, 5], one[0, :, 0])
    assert torch.equal(keys[1, :, 7], one[1, :, 0]) and torch.equal(keys[1, :, 5:7], new[0])
    assert torch.equal(keys[2, :, 6], one[2, :, 0]) and torch.equal(keys[2, :, 5], new[1, :, 0])


def test_growing_keeps_what_is_there():
    prefix, cache = filled_prefix(5), RowCache(2)
    cache.reserve(1, 5, prefix)
    cache.copy_prefix(prefix, slice(0, 1), 5)
    cache.reserve(2, CHUNK + 1)
    assert (cache.rows, cache.slots) == (2, 2 * CHUNK)
    for layer, filled in zip(cache.rows_of_layers, prefix.rows_of_layers, strict=True):
        assert layer.keys.shape == layer.values.shape == (2, 2, 2 * CHUNK, 3)
        assert torch.equal(layer.keys[:1, :, :5], filled.keys)
        assert torch.equal(layer.values[:1, :, :5], filled.values)
    held = cache.rows_of_layers[0].keys
    cache.reserve(2, 3)
    assert cache.rows_of_layers[0].keys is held


def test_a_row_moves_as_far_as_it_is_filled():
    prefix, cache = filled_prefix(5), RowCache(2)
    cache.reserve(2, 5, prefix)
    cache.copy_prefix(prefix, slice(1, 2), 5)
    cache.move_row(1, 0, 3)
    for layer, filled in zip(cache.rows_of_layers, prefix.rows_of_layers, strict=True):
        assert torch.equal(layer.keys[0, :, :3], filled.keys[0, :, :3])
        assert torch.equal(layer.values[0, :, :3], filled.values[0, :, :3])
        assert not layer.keys[0, :, 3:].any()
