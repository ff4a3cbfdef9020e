"""The simulated device mixes devices and dtypes as CUDA does, computes as the CPU, and counts."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from tests.simulated_device import CPU, DEVICE, SimulatedDevice


@pytest.fixture
def device():
    with SimulatedDevice() as simulated:
        yield simulated


def here(*size: int) -> torch.Tensor:
    """On the CPU."""
    return torch.arange(1.0, 1 + np.prod(size)).reshape(size)


def there(*size: int) -> torch.Tensor:
    """On the device."""
    return here(*size).to(DEVICE)


MIXTURES = {
    "add": lambda: there(3) + here(3),
    "add, the other way": lambda: here(3) + there(3),
    "a scalar of the device": lambda: here(3) * there(1).sum(),
    "in place": lambda: here(3).add_(there(3)),
    "in place, scalars": lambda: here(1).sum().add_(there(1).sum()),
    "matrix product": lambda: there(2, 3) @ here(3, 2),
    "linear layer": lambda: F.linear(here(2, 3), there(4, 3)),
    "convolution": lambda: F.conv2d(there(1, 1, 4, 4), here(1, 1, 2, 2)),
    "cat": lambda: torch.cat([there(3), here(3)]),
    "stack": lambda: torch.stack([there(3), here(3)]),
    "where": lambda: torch.where(here(3) > 1, there(3), there(3)),
    "masked fill": lambda: there(3).masked_fill(here(3) > 1, 0.0),
    "embedding": lambda: F.embedding(torch.tensor([1]), there(3, 2)),
    "gather": lambda: there(3).gather(0, torch.tensor([1])),
    "index select": lambda: there(3).index_select(0, torch.tensor(1)),
    "scatter": lambda: there(3).scatter(0, torch.tensor([1]), there(1)),
    "layer norm": lambda: F.layer_norm(there(2, 3), (3,), here(3)),
    "attention": lambda: F.scaled_dot_product_attention(
        there(1, 2, 4), here(1, 2, 4), here(1, 2, 4)
    ),
    "loss": lambda: F.cross_entropy(there(2, 3), torch.tensor([0, 1])),
    "searchsorted": lambda: torch.searchsorted(there(3), here(3)),
    "einsum": lambda: torch.einsum("ab,bc->ac", there(2, 2), here(2, 2)),
    "index of the device, tensor of the CPU": lambda: here(3)[there(1).long()],
    "mask of the device, tensor of the CPU": lambda: here(3)[there(3) > 1],
    "values by an index": lambda: there(3).index_put_((there(2).long(),), here(2)),
    "values into the CPU": lambda: here(3).index_put_((torch.tensor([0, 1]),), there(2)),
    "a module left behind": lambda: nn.Linear(3, 2)(there(1, 3)),
    "a generator of the CPU": lambda: torch.rand(3, device=DEVICE, generator=torch.Generator()),
    "norm with other weights": lambda: F.layer_norm(there(2, 3).half(), (3,), there(3)),
    "product of two dtypes": lambda: there(2, 2) @ there(2, 2).bfloat16(),
    "product of integers": lambda: there(2, 2).long() @ there(2, 2).long(),
}


@pytest.mark.parametrize("case", MIXTURES)
def test_what_cuda_refuses(device, case):
    with pytest.raises(RuntimeError, match="device|on cpu|dtype|scalar type|not implemented"):
        MIXTURES[case]()


ALLOWED = {
    "a number": lambda on: on(here(3)) * 2.0 + 1,
    "a scalar of the CPU": lambda on: on(here(3)) * torch.tensor(2.0),
    "a scalar by where": lambda on: torch.where(on(here(3)) > 1, on(here(3)), torch.tensor(0.0)),
    "an index of the CPU": lambda on: on(here(3))[torch.tensor([2, 0])],
    "a value by an index": lambda on: on(here(3)).index_put_((on(torch.tensor([1])),), here(1)[0]),
    "assigning over devices": lambda on: on(here(3)).copy_(here(3) + 1),
    "assigning to a part": lambda on: _with_part(on(here(3)), here(2)),
    "made beside it": lambda on: torch.arange(3, device=on(here(3)).device) + on(here(3)),
    "new": lambda on: on(here(3)).new_full((2,), 5.0) + on(here(2)),
    "from a list": lambda on: (
        torch.tensor([1.0, 2.0, 3.0], device=on(here(1)).device) + on(here(3))
    ),
    "attention": lambda on: F.scaled_dot_product_attention(*[on(here(1, 3, 4))] * 3),
    "upscaled": lambda on: F.interpolate(on(here(1, 1, 2, 2)), (5, 5), mode="bilinear"),
    "sorted": lambda on: on(here(3)).flip(0).sort(stable=True)[0],
    "half": lambda on: F.layer_norm(on(here(2, 3).half()), (3,), on(here(3).half())).float(),
}


def _with_part(whole: torch.Tensor, part: torch.Tensor) -> torch.Tensor:
    whole[1:] = part
    return whole


@pytest.mark.parametrize("case", ALLOWED)
def test_what_cuda_takes_gives_the_values_of_the_cpu(device, case):
    expected = ALLOWED[case](lambda value: value)
    made = ALLOWED[case](lambda value: value.to(DEVICE))
    assert made.device == DEVICE and expected.device == CPU
    torch.testing.assert_close(made.cpu(), expected)


def test_values_come_home_by_a_copy_alone(device):
    value = there(2, 2)
    with pytest.raises(TypeError, match=r"Use Tensor\.cpu\(\)"):
        value.numpy()
    with pytest.raises(TypeError, match=r"Use Tensor\.cpu\(\)"):
        np.asarray(value)
    assert type(value.cpu()) is torch.Tensor and value.cpu().numpy().tolist() == [[1, 2], [3, 4]]
    assert value.tolist() == [[1, 2], [3, 4]] and value.sum().item() == 10 and value.max() > 3


def test_views_share_their_values(device):
    value = there(2, 3)
    value[:, 1] = 0.0
    value.view(-1)[0] = 9.0
    assert value.tolist() == [[9, 0, 3], [4, 0, 6]]


def test_training_is_that_of_the_cpu():
    """A module that moves, a recomputed part, a backward pass and a step of the optimiser."""

    def trained(place: torch.device) -> torch.Tensor:
        torch.manual_seed(0)
        module = nn.Sequential(nn.Linear(3, 4), nn.GELU(), nn.LayerNorm(4), nn.Linear(4, 1))
        module.to(place)
        optimiser = torch.optim.AdamW(module.parameters(), lr=0.1)
        checkpoint(module, here(5, 3).to(place), use_reentrant=False).square().sum().backward()
        assert all(p.grad.device == place for p in module.parameters())
        optimiser.step()
        return nn.utils.parameters_to_vector(module.parameters()).detach().cpu()

    with SimulatedDevice():
        made = trained(DEVICE)
    torch.testing.assert_close(made, trained(CPU))


WAITS = {
    "item": (lambda: there(1).item(), 1),
    "truth of a comparison": (lambda: bool(there(3).max() > 2), 1),
    "list": (lambda: there(3).tolist(), 1),
    "home": (lambda: there(3).cpu(), 1),
    "non-zero": (lambda: there(3).nonzero(), 1),
    "mask": (lambda: there(3)[there(3) > 1], 1),
    "assigning by a mask": (lambda: there(3).index_put_((there(3) > 1,), there(1)[0]), 1),
    "index of the CPU": (lambda: there(3)[torch.tensor([1])], 1),
    "counts": (lambda: torch.bincount(there(3).long()), 1),
    "different values": (lambda: torch.unique(there(3)), 1),
    "repeated by a tensor": (lambda: there(2).repeat_interleave(there(2).long()), 1),
    "repeated, told": (lambda: there(2).repeat_interleave(there(2).long(), output_size=3), 0),
    "from a list": (lambda: torch.tensor([1, 2], device=DEVICE), 1),
    "copied over": (lambda: torch.empty(2, device=DEVICE).copy_(here(2)), 1),
    "copied over, not waiting": (lambda: here(2).to(DEVICE, non_blocking=True), 0),
    "elementwise": (lambda: torch.where(there(3) > 1, there(3), 0.0), 0),
    "index of the device": (lambda: there(3)[torch.zeros(1, dtype=torch.int64, device=DEVICE)], 0),
}


@pytest.mark.parametrize("case", WAITS)
def test_what_the_host_waits_for(device, case, monkeypatch):
    action, waits = WAITS[case]
    monkeypatch.setattr(
        "tests.test_simulated_device.there",
        lambda *size: here(*size).to(DEVICE, non_blocking=True),
    )
    action()
    assert device.syncs.total() == waits, str(device)


def test_launches_and_places(device):
    from model.sasp import similarity_map

    values = there(4, 3), there(3)
    device.forget()
    similarity_map(*values).view(2, 2)
    assert device.launches.total() >= 1 and "aten.bmm" in device.launches
    assert not device.syncs and "aten.view" not in device.launches
    from model.sasp import PRESETS, similarity_to_points

    similarity_to_points(there(576), (60, 80), PRESETS["7b"])
    (place,) = {place.rsplit(":", 1)[0] for place in device.syncs if "model" in place}
    assert place == "aten._to_copy at model/sasp.py"
