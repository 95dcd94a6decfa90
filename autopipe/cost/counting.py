"""Counts what one call does, by running it on fake tensors forward and backward under a dispatch mode.

::

    inputs ──► call ──► outputs          forward      operations seen in between
      │          │ saves for backward    saved        storages, each known as: input i, output j, or inside
      ▼          ▼
    d inputs ◄── backward                bwd_input    autograd.grad with respect to the inputs alone
    d weights ◄─                         bwd_weight   what asking for the weights adds, and adding to .grad
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.autograd.graph import saved_tensors_hooks
from torch.utils._python_dispatch import TorchDispatchMode

from autopipe.cost.attention import FusedAttention, without_fast_path
from autopipe.cost.grouped import grouped_product
from autopipe.cost.operation import Operation, describe, dtype_name, tensor_bytes
from autopipe.cost.phantom import Phantoms, tensors_of
from autopipe.ir.structure import Structure
from autopipe.ir.traced import Region


@dataclass(frozen=True, slots=True)
class Made:
    """A tensor that a call returned.

    Args:
        shape: Its shape.
        stride: Its strides.
        dtype: Its dtype.
        requires_grad: Whether a gradient flows back through it.
        storage: ("input", i): it shares the storage of tensor i among the arguments; ("output", j): its
            storage is new, and output j is the first to have it; ("kept", 0): that of a parameter or a buffer
            inside the module.
        storage_bytes: Bytes of the storage.
    """

    shape: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: torch.dtype
    requires_grad: bool
    storage: tuple[str, int]
    storage_bytes: int


@dataclass(frozen=True, slots=True)
class Count:
    """What one call does.

    Args:
        forward: Operations of the forward.
        bwd_input: Operations of the gradient with respect to the inputs.
        bwd_weight: Operations of the gradient with respect to the parameters.
        structure: The value returned, without its tensors; None if it is one tensor.
        made: The tensors returned.
        saved: Storages kept for the backward that are arguments or outputs, named as in ``Made.storage``.
        saved_inside_bytes: Bytes kept for the backward that are neither.
    """

    forward: tuple[Operation, ...]
    bwd_input: tuple[Operation, ...] = ()
    bwd_weight: tuple[Operation, ...] = ()
    structure: Structure | None = None
    made: tuple[Made, ...] = ()
    saved: tuple[tuple[str, int], ...] = ()
    saved_inside_bytes: int = 0


class _Operations(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Collects what reaches ATen."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.seen: list[Operation] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        run = grouped_product if func is torch.ops.aten._grouped_mm.default else func
        out = run(*args, **(kwargs or {}))
        operation = describe(func, args, kwargs or {}, out)
        if operation is not None:
            self.seen.append(operation)
        return out


class _Copy(torch.autograd.Function):
    """A tensor of the same strides, whose backward is free; ``clone`` makes an expanded one dense."""

    @staticmethod
    def forward(ctx: Any, leaf: torch.Tensor) -> torch.Tensor:
        """Return it, without the values."""
        return torch.empty_strided(leaf.shape, leaf.stride(), dtype=leaf.dtype, device=leaf.device)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        """Pass the gradient on."""
        return gradient


@dataclass(slots=True)
class _Saved:
    """Storages that autograd keeps, by identity."""

    of: dict[int, tuple[str, int]] = field(default_factory=dict)
    bytes_of: dict[int, int] = field(default_factory=dict)
    alive: list[Any] = field(default_factory=list)

    def know(self, tensor: torch.Tensor, name: tuple[str, int]) -> tuple[str, int]:
        """Name a storage, or return the name that it has."""
        storage = tensor.untyped_storage()
        self.alive.append(storage)
        return self.of.setdefault(storage._cdata, name)

    def pack(self, tensor: torch.Tensor) -> torch.Tensor:
        """Note a tensor that autograd keeps; detached, so that an output does not keep itself alive."""
        if isinstance(tensor, FakeTensor):
            storage = tensor.untyped_storage()
            self.alive.append(storage)
            self.bytes_of[storage._cdata] = storage.nbytes()
        return tensor.detach()

    def named(self) -> tuple[tuple[str, int], ...]:
        """Arguments and outputs among what is kept."""
        names = {self.of[key] for key in self.bytes_of if key in self.of}
        return tuple(sorted(name for name in names if name[0] != "kept"))

    def inside_bytes(self) -> int:
        """Bytes of what is kept and is neither argument, output, parameter nor buffer."""
        return sum(nbytes for key, nbytes in self.bytes_of.items() if key not in self.of)


@contextmanager
def in_region(region: Region) -> Iterator[None]:
    """Run under the modes of a region; without gradients where it was in inference mode."""
    with ExitStack() as stack:
        stack.enter_context(torch.set_grad_enabled(region.grad_enabled and not region.inference))
        for kind, dtype in region.autocast:
            stack.enter_context(torch.autocast(kind, getattr(torch, dtype), cache_enabled=False))
        yield


class Laboratory:
    """Runs calls on fake tensors and counts.

    Args:
        device_type: The device that the model was captured on; its autocast regions are priced.
        fused_attention: Whether the hardware has fused attention kernels with dropout (GPUs do).
    """

    def __init__(self, device_type: str, *, fused_attention: bool) -> None:
        """Start one fake world for all calls."""
        self._mode = FakeTensorMode(allow_non_fake_inputs=True)
        self._phantoms = Phantoms(self._fake)
        self._device_type, self._fused_attention = device_type, fused_attention

    def count(
        self, target: Callable[..., Any], call: Structure, inputs: Sequence[torch.Tensor], region: Region
    ) -> Count:
        """Count one call.

        Args:
            target: What is called; a module is called as a phantom, without its hooks.
            call: ``(args, kwargs)`` without tensors.
            inputs: The tensors, on any device (``meta`` does); those that are nn.Parameters are weights.
            region: The modes to run under.

        Returns:
            What it does.

        Raises:
            Exception: Whatever the call raises because its tensors hold no data.
        """
        saved, weights = _Saved(), []
        leaves = [self._phantoms.tensor(tensor) for tensor in inputs]
        given = self._not_leaves(leaves)
        for i, tensor in enumerate(given):
            saved.know(tensor, ("input", i))
        if isinstance(target, nn.Module):
            phantom = self._phantoms.module(target)
            weights += list(phantom.parameters())
            for tensor in tensors_of(phantom):
                saved.know(tensor, ("kept", 0))
            target = phantom
        forward, out = self._forward(target, call, given, region, saved)
        structure, tensors = (None, [out]) if isinstance(out, torch.Tensor) else Structure.of(out)
        made = tuple(_made(tensor, j, saved) for j, tensor in enumerate(tensors))
        weights += [leaf for leaf in leaves if isinstance(leaf, nn.Parameter)]
        others = [leaf for leaf in leaves if not isinstance(leaf, nn.Parameter)]
        bwd_input, bwd_weight = self._backward(tensors, asking_grad(others), asking_grad(weights))
        inside_bytes = saved.inside_bytes()
        if saved.bytes_of:
            inside_bytes += sum(operation.workspace_bytes for operation in forward)
        return Count(forward, bwd_input, bwd_weight, structure, made, saved.named(), inside_bytes)

    def _fake(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return a fake CPU tensor: a model costs the same wherever it lies, and no GPU is needed."""
        with self._mode:
            fake = torch.empty_strided(tuple(tensor.shape), tensor.stride(), dtype=tensor.dtype, device="cpu")
        return fake.requires_grad_(tensor.requires_grad)

    def _not_leaves(self, leaves: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Copy what asks for a gradient: no in-place call may hit a leaf."""
        asking = [leaf for leaf in asking_grad(leaves) if not isinstance(leaf, nn.Parameter)]
        with self._mode:
            copies = {id(leaf): _Copy.apply(leaf) for leaf in asking}  # type: ignore[no-untyped-call]
        return [copies.get(id(leaf), leaf) for leaf in leaves]

    def _forward(
        self,
        target: Callable[..., Any],
        call: Structure,
        given: Sequence[torch.Tensor],
        region: Region,
        saved: _Saved,
    ) -> tuple[tuple[Operation, ...], Any]:
        args, kwargs = call.fill(given)
        autocast = tuple(("cpu", dtype) for kind, dtype in region.autocast if kind == self._device_type)
        with ExitStack() as stack:
            stack.enter_context(self._mode)
            stack.enter_context(without_fast_path())
            stack.enter_context(in_region(replace(region, autocast=autocast)))
            stack.enter_context(saved_tensors_hooks(saved.pack, lambda tensor: tensor))
            if self._fused_attention:
                stack.enter_context(FusedAttention())
            operations = stack.enter_context(_Operations())
            out = target(*args, **kwargs)
        return tuple(operations.seen), out

    def _backward(
        self, outputs: Sequence[Any], inputs: Sequence[torch.Tensor], weights: Sequence[torch.Tensor]
    ) -> tuple[tuple[Operation, ...], tuple[Operation, ...]]:
        roots = [out for out in outputs if isinstance(out, torch.Tensor) and out.requires_grad]
        if not roots:
            return (), ()
        with self._mode:
            grads = [torch.empty_like(root) for root in roots]
        for_inputs = self._grad(roots, inputs, grads)[0] if inputs else ()
        if not weights:
            return for_inputs, ()
        both, found = self._grad(roots, [*inputs, *weights], grads)
        gradients = zip(weights, found[len(inputs) :], strict=True)
        added = [_accumulation(weight) for weight, gradient in gradients if gradient is not None]
        return for_inputs, (*_without(both, for_inputs), *added)

    def _grad(
        self, roots: Sequence[torch.Tensor], wanted: Sequence[torch.Tensor], grads: Sequence[torch.Tensor]
    ) -> tuple[tuple[Operation, ...], tuple[torch.Tensor | None, ...]]:
        with self._mode, _Operations() as operations:
            found = torch.autograd.grad(roots, wanted, grads, retain_graph=True, allow_unused=True)
        return tuple(operations.seen), found


def asking_grad(tensors: Iterable[torch.Tensor]) -> list[torch.Tensor]:
    """Return the tensors that gradients are asked for, each once."""
    return list({id(tensor): tensor for tensor in tensors if tensor.requires_grad}.values())


def _made(tensor: torch.Tensor, index: int, saved: _Saved) -> Made:
    storage = saved.know(tensor, ("output", index))
    nbytes = tensor.untyped_storage().nbytes()
    return Made(tuple(tensor.shape), tensor.stride(), tensor.dtype, tensor.requires_grad, storage, nbytes)


def _accumulation(weight: torch.Tensor) -> Operation:
    """Adding a gradient into ``.grad``: reads both, writes one."""
    return Operation("aten.add_", 0, 3 * tensor_bytes(weight), dtype_name(weight.dtype))


def _without(both: Sequence[Operation], part: Sequence[Operation]) -> list[Operation]:
    """Return what ``both`` does beyond ``part``.

    One operation may make both gradients (convolution_backward); asked for the inputs alone it does less.
    Then the difference is what the weights add.
    """
    more, less = Counter(both), Counter(part)
    more, less = more - less, less - more
    smaller = list(less.elements())
    rest = []
    for operation in more.elements():
        same = next((other for other in smaller if other.name == operation.name), None)
        if same is None:
            rest.append(operation)
            continue
        smaller.remove(same)
        flops, nbytes = max(0, operation.flops - same.flops), max(0, operation.nbytes - same.nbytes)
        rest.append(Operation(operation.name, flops, nbytes, operation.dtype))
    return rest
