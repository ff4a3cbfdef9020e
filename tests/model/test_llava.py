"""The image inside the text, and where `[SEG]` stands once it is there."""

import pytest
import torch
from torch import nn

from model.llava import build_projector, load_vision_tower, splice_image
from model.seg_tokens import image_hidden_states, locate_seg
from utils.errors import InputError

SEG, IMAGE, V, D = 9, -200, 4, 3


@pytest.fixture
def table() -> nn.Embedding:
    table = nn.Embedding(10, D)
    nn.init.normal_(table.weight, generator=torch.Generator().manual_seed(0))
    return table


def features(count: int) -> torch.Tensor:
    return torch.arange(count * V * D).float().reshape(count, V, D)


def by_hand(ids, mask, table, images, index):
    """One row after the other, position after position."""
    rows = []
    for row, number in zip(range(len(ids)), index, strict=True):
        parts, alive = [], []
        for token, on in zip(ids[row].tolist(), mask[row].tolist(), strict=True):
            if token == IMAGE:
                parts += list(images[number])
                alive += [True] * V
            else:
                parts.append(table.weight[token])
                alive.append(on)
        rows.append((torch.stack(parts), alive))
    return rows


@pytest.mark.parametrize("padding", ["right", "left"])
def test_several_rows_with_images_of_their_own(table, padding):
    rows = [[1, IMAGE, 2, SEG, 3, SEG], [1, 4, IMAGE, 5, SEG], [1, IMAGE]]
    ids = torch.zeros(3, 6, dtype=torch.int64)
    mask = torch.zeros(3, 6, dtype=torch.bool)
    for n, row in enumerate(rows):
        place = slice(0, len(row)) if padding == "right" else slice(6 - len(row), 6)
        ids[n, place], mask[n, place] = torch.tensor(row), True
    index = torch.tensor([1, 0, 1])
    spliced = splice_image(ids, mask, table, features(2), index)
    assert spliced.embeds.shape == (3, 6 + V - 1, D)
    for n, (embeds, alive) in enumerate(by_hand(ids, mask, table, features(2), index.tolist())):
        assert torch.equal(spliced.embeds[n], embeds)
        assert spliced.attention_mask[n].tolist() == alive
        start = int(spliced.image_start[n])
        assert torch.equal(spliced.embeds[n, start : start + V], features(2)[index[n]])

    seg = locate_seg(ids, spliced.text_position, SEG)
    assert seg.row.tolist() == [0, 0, 1]
    for row, column, state in zip(seg.row, seg.column, seg.state_position, strict=True):
        assert ids[row, column] == SEG
        assert torch.equal(spliced.embeds[row, state + 1], table.weight[SEG])
        previous = ids[row, column - 1]
        assert torch.equal(spliced.embeds[row, state], table.weight[previous])
    seen = image_hidden_states(spliced.embeds, spliced.image_start, V)
    assert torch.equal(seen, features(2)[index])


def test_a_row_without_an_image_among_others(table):
    ids = torch.tensor([[1, 2, 3, SEG], [1, IMAGE, 2, SEG]])
    mask = torch.ones_like(ids, dtype=torch.bool)
    spliced = splice_image(ids, mask, table, features(1), torch.tensor([0, 0]))
    assert spliced.image_start.tolist() == [-1, 1]
    assert torch.equal(spliced.embeds[0, :4], table(ids[0]))
    assert spliced.attention_mask[0].tolist() == [True] * 4 + [False] * (V - 1)
    assert spliced.attention_mask[1].all()
    assert (spliced.embeds[0, 4:] == 0).all()


def test_no_image_at_all(table):
    ids = torch.tensor([[1, 2, SEG]])
    spliced = splice_image(ids, ids > 0, table, features(1), torch.tensor([0]))
    assert torch.equal(spliced.embeds, table(ids))
    assert spliced.text_position.tolist() == [[0, 1, 2]]


def test_gradients_reach_both_tables(table):
    images = features(1).requires_grad_()
    ids = torch.tensor([[1, IMAGE, 2]])
    splice_image(ids, ids != 0, table, images, torch.tensor([0])).embeds.sum().backward()
    assert (images.grad == 1).all()
    assert table.weight.grad.sum(dim=1).nonzero()[:, 0].tolist() == [1, 2]


def test_two_images_in_a_prompt_are_refused(table):
    ids = torch.tensor([[1, IMAGE, IMAGE]])
    with pytest.raises(InputError, match="more than one <image>"):
        splice_image(ids, ids != 0, table, features(1), torch.tensor([0]))


def test_unusable_tower_and_projector(tmp_path):
    with pytest.raises(InputError, match="vision_tower") as caught:
        load_vision_tower(tmp_path / "nothing")
    assert str(tmp_path) in str(caught.value)
    with pytest.raises(InputError, match="'linear' is not supported"):
        build_projector("linear", 3, 4)
