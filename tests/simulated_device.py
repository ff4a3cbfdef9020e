"""A second device that needs no GPU: values are real, and devices mix as CUDA lets them mix.

A tensor on `DEVICE` wraps one on the CPU, which every operator really runs on. Inside
`SimulatedDevice()` operators are checked as CUDA checks them:

    * all tensors of an operator are on one device; only a 0-dimensional CPU tensor may join an
      elementwise operator or be assigned by an index;
    * a CPU index may index a tensor of the device (a copy, and a wait), never the other way round;
    * `.to`, `.cpu` and `copy_` cross; `.numpy()` raises TypeError; a CPU generator draws nothing
      on the device;
    * normalisation takes weights of its input's dtype, matrix products take no integers.

The device calls itself "lazy": among PyTorch's own device types it is one of two that autograd
accepts without a driver, and the one that is not "meta". Attention takes the math path on it. No
other code of PyTorch asks for this device, so whatever reads `tensor.device` is followed truly. One
check of CUDA is missing: autograd does not compare the device of a gradient with its tensor's.

Counted by the way: operators that would be a kernel launch, and those for which the host waits
("syncs"), each with the project's line.
"""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_flatten, tree_map

DEVICE = torch.device("lazy:0")
CPU = torch.device("cpu")
REPOSITORY = Path(__file__).resolve().parents[1]
aten = torch.ops.aten

CROSSING = {aten._to_copy, aten.copy_}
INDEXING = {aten.index, aten.index_put, aten.index_put_, aten._index_put_impl_, aten._unsafe_index}
NORMS = {aten.native_layer_norm, aten.native_group_norm}
PRODUCTS = {aten.mm, aten.bmm, aten.addmm, aten.baddbmm, aten.addbmm, aten.dot, aten.mv}
WAITING = {
    aten._local_scalar_dense,
    aten.bincount,
    aten.equal,
    aten.masked_select,
    aten.nonzero,
    aten._unique2,
    aten.unique_consecutive,
    aten.unique_dim,
}
"""The host waits for the size of the result, or for the result itself. `repeat_interleave` of a
tensor does too, unless it is told the size."""

NO_KERNEL = {aten.detach, aten.alias, aten.lift_fresh, aten._unsafe_view, aten._reshape_alias}
"""Besides everything that only makes a view, and what makes memory without filling it."""

UNFILLED = {aten.empty, aten.empty_like, aten.empty_strided, aten.new_empty, aten.new_empty_strided}


class OnDevice(torch.Tensor):
    """A tensor of the simulated device; `host` holds its values on the CPU."""

    host: torch.Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @staticmethod
    def __new__(cls, real: torch.Tensor) -> OnDevice:
        made = torch.Tensor._make_wrapper_subclass(
            cls,
            real.size(),
            strides=real.stride(),
            storage_offset=real.storage_offset(),
            dtype=real.dtype,
            device=DEVICE,
        )
        made.host = real
        return made

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return run(func, args, kwargs or {})

    def numpy(self, *, force: bool = False) -> Any:
        """Raises TypeError, unless `force` asks for a copy."""
        if not force:
            raise TypeError(
                f"can't convert {DEVICE} device type tensor to numpy. Use Tensor.cpu() to copy the "
                "tensor to host memory first."
            )
        return self.detach().cpu().numpy()

    def __array__(self, *given: Any, **named: Any) -> Any:
        return self.numpy()

    def tolist(self) -> Any:
        """PyTorch's own refuses subclasses."""
        return self.detach().cpu().tolist()

    def __repr__(self, **_: Any) -> str:
        return f"OnDevice({self.host!r})"


def run(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """Check an operator by the rules above, and run it."""
    tensors = [value for value in tree_flatten((args, kwargs))[0] if torch.is_tensor(value)]
    device = _device_of_result(func, args, kwargs, tensors)
    _check_dtypes(func, args, device)
    if torch.Tag.inplace_view in func.tags:
        raise NotImplementedError(f"{func} changes the shape of a tensor of {DEVICE} in place")
    if "device" in kwargs:
        kwargs = {**kwargs, "device": CPU if kwargs["device"] == DEVICE else kwargs["device"]}
    real_args, real_kwargs = tree_map(_real, (args, kwargs))
    made = func(*real_args, **real_kwargs)
    if device == CPU:
        return made
    made = tree_map(lambda value: OnDevice(value) if torch.is_tensor(value) else value, made)
    return return_and_correct_aliasing(func, args, kwargs, made)


def _real(value: Any) -> Any:
    return value.host if isinstance(value, OnDevice) else value


def _mixed(func: Any, found: set[torch.device]) -> RuntimeError:
    names = " and ".join(sorted(map(str, found), reverse=True))
    return RuntimeError(
        f"Expected all tensors to be on the same device, but found at least two devices, {names}! "
        f"(when checking the arguments of {func})"
    )


def _device_of_result(func: Any, args: Any, kwargs: Any, tensors: list[Any]) -> torch.device:
    """Where the result is.

    Raises:
        RuntimeError: the devices of the arguments do not go together.
    """
    packet = func.overloadpacket
    if packet in CROSSING:
        return kwargs.get("device") or args[0].device
    if packet in INDEXING:
        return _device_of_indexed(func, args)
    elementwise = torch.Tag.pointwise in func.tags
    joining = [t for t in tensors if not (elementwise and t.dim() == 0 and t.device == CPU)]
    found = {t.device for t in joining or tensors}
    if len(found) > 1:
        raise _mixed(func, found)
    (device,) = found or {CPU}
    for written, value in zip(func._schema.arguments, args, strict=False):
        is_output = written.alias_info is not None and written.alias_info.is_write
        if is_output and torch.is_tensor(value) and value.device != device:
            raise _mixed(func, {value.device, device})
    asked = kwargs.get("device") or device
    generator = kwargs.get("generator")
    if generator is not None and generator.device.type != asked.type:
        raise RuntimeError(
            f"Expected a '{asked.type}' device type for generator but found "
            f"'{generator.device.type}'"
        )
    return asked


def _device_of_indexed(func: Any, args: Any) -> torch.device:
    """`tensor[indices]` and `tensor[indices] = values`."""
    indexed, indices, *values = args
    if any(index is not None and index.device not in (CPU, indexed.device) for index in indices):
        raise RuntimeError(
            "indices should be either on cpu or on the same device as the indexed tensor "
            f"({indexed.device})"
        )
    for value in values[:1]:
        if value.device != indexed.device and value.dim():
            raise _mixed(func, {value.device, indexed.device})
    return indexed.device


def _check_dtypes(func: Any, args: Any, device: torch.device) -> None:
    """What the CPU takes and CUDA does not.

    Raises:
        RuntimeError: such dtypes.
    """
    if device == CPU:
        return
    packet, tensors = func.overloadpacket, [value for value in args if torch.is_tensor(value)]
    if packet in NORMS and len({t.dtype for t in tensors}) > 1:
        raise RuntimeError(f"expected scalar type {tensors[0].dtype} but found {tensors[1].dtype}")
    if packet in PRODUCTS and not all(t.is_floating_point() for t in tensors):
        raise RuntimeError(f'"{packet}" not implemented for {tensors[0].dtype}')


class SimulatedDevice(TorchDispatchMode):
    """Inside, `DEVICE` can be used; see the head of this file.

    Attributes:
        launches: operators that run on the device, by name.
        syncs: "operator at file:line" of the project for which the host waits.
    """

    def __init__(self) -> None:
        super().__init__()
        self.launches: Counter[str] = Counter()
        self.syncs: Counter[str] = Counter()

    def __enter__(self) -> SimulatedDevice:
        # `torch.tensor([...], device=DEVICE)` then makes a CPU tensor and copies it, in the open.
        self._lifts = torch._C._only_lift_cpu_tensors()
        torch._C._set_only_lift_cpu_tensors(True)
        # Gradient checkpointing asks for the device's module. It has no random state to keep here.
        setattr(torch, DEVICE.type, torch.cpu)
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        delattr(torch, DEVICE.type)
        torch._C._set_only_lift_cpu_tensors(self._lifts)
        super().__exit__(*error)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        tensors = [value for value in tree_flatten((args, kwargs))[0] if torch.is_tensor(value)]
        on_device = any(isinstance(value, OnDevice) for value in tensors)
        if not on_device and kwargs.get("device") != DEVICE:
            return func(*args, **kwargs)
        made = run(func, args, kwargs)
        if _waits(func, args, kwargs):
            self.syncs[f"{func.overloadpacket} at {_place()}"] += 1
        if func.overloadpacket not in NO_KERNEL | UNFILLED and not func.is_view:
            self.launches[str(func.overloadpacket)] += 1
        return made

    def forget(self) -> None:
        """Count from 0."""
        self.launches.clear()
        self.syncs.clear()

    def __str__(self) -> str:
        lines = [f"{count:6} {place}" for place, count in self.syncs.most_common()]
        return "\n".join([f"{self.launches.total()} launches, {self.syncs.total()} syncs:", *lines])


def _waits(func: Any, args: Any, kwargs: Any) -> bool:
    packet = func.overloadpacket
    if packet is aten._to_copy:
        return not kwargs.get("non_blocking") and kwargs.get("device") not in (None, args[0].device)
    if packet is aten.copy_:
        blocking = not (kwargs.get("non_blocking") or (len(args) > 2 and args[2]))
        return blocking and args[0].device != args[1].device
    if packet in INDEXING:
        indices = [index for index in args[1] if index is not None]
        return any(i.device == CPU or i.dtype in (torch.bool, torch.uint8) for i in indices)
    if packet is aten.repeat_interleave:
        return kwargs.get("output_size") is None
    return packet in WAITING


def _place() -> str:
    """The innermost line of the project that leads here, and the node of a backward pass."""
    node = torch._C._current_autograd_node()
    suffix = f" (backward: {node.name()})" if node is not None else ""
    frame: Any = sys._getframe(2)
    while frame is not None:
        path = Path(frame.f_code.co_filename)
        inside = path.is_relative_to(REPOSITORY) and ".venv" not in path.parts
        if inside and "tests" not in path.relative_to(REPOSITORY).parts:
            return f"{path.relative_to(REPOSITORY)}:{frame.f_lineno}{suffix}"
        frame = frame.f_back
    return f"outside the project{suffix}"
