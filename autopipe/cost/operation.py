"""What one ATen operation does: floating point operations, bytes moved, kernels started.

FLOPs come from the registry of ``torch.utils.flop_counter`` (a multiply-add is two), completed here by what
a CPU runs and that registry lacks. An operation without a formula has no FLOPs: the bytes that it moves
bound it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch.utils import _pytree as pytree
from torch.utils.flop_counter import (
    conv_flop_count,
    flop_registry,
    sdpa_backward_flop_count,
    sdpa_flop_count,
)

from autopipe.cost.grouped import grouped_product_flops
from autopipe.cost.recurrent import (
    recurrent_layer_backward_flops,
    recurrent_layer_flops,
    recurrent_workspace_bytes,
)
from autopipe.ir.hardware import Device

aten = torch.ops.aten


def dtype_name(dtype: torch.dtype) -> str:
    """Return ``"float32"`` for ``torch.float32``."""
    return str(dtype).removeprefix("torch.")


@dataclass(frozen=True, slots=True)
class Operation:
    """One ATen operation that starts a kernel.

    Args:
        name: Such as ``aten.addmm``.
        flops: Floating point operations, a multiply-add being two.
        nbytes: Bytes read and written.
        dtype: The dtype that it computes in.
        workspace_bytes: What its kernel keeps for the backward beyond what fake tensors show.
    """

    name: str
    flops: int
    nbytes: int
    dtype: str
    workspace_bytes: int = 0

    def time_ms(self, device: Device) -> float:
        """Time on a device: the slower of arithmetic and memory, and the start of the kernel.

        Source:
            S. Williams, A. Waterman, D. Patterson, "Roofline", CACM 52(4), 2009.

        Example:
            >>> gpu = Device("gpu", {"float32": 1e12}, 1e11, 2**30, 0.5, "an example")
            >>> Operation("aten.mm", 3 * 10**9, 10**6, "float32").time_ms(gpu)
            3.5
        """
        peak = device.flops_per_s.get(self.dtype) or min(device.flops_per_s.values())
        return 1e3 * max(self.flops / peak, self.nbytes / device.mem_bytes_per_s) + device.launch_ms


def total_ms(operations: Iterable[Operation], device: Device) -> float:
    """Return the time of several operations, one after the other."""
    return sum(operation.time_ms(device) for operation in operations)


def _cpu_attention(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    return int(sdpa_flop_count(query.shape, key.shape, value.shape))  # type: ignore[no-untyped-call]


def _cpu_attention_backward(grad: Any, query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    shapes = (tensor.shape for tensor in (grad, query, key, value))
    return int(sdpa_backward_flop_count(*shapes))  # type: ignore[no-untyped-call]


def _convolution_backward(grad: Any, x: Any, weight: Any, *rest: Any, **_: Any) -> int:
    """As many as the forward for each of the two gradients asked for; right for groups, too."""
    transposed, mask = rest[4], rest[7]
    product = conv_flop_count(x.shape, weight.shape, grad.shape, transposed)
    return int(product * (mask[0] + mask[1]))


_MORE_FORMULAS: Mapping[Any, Callable[..., int]] = {
    aten._scaled_dot_product_flash_attention_for_cpu: _cpu_attention,
    aten._scaled_dot_product_flash_attention_for_cpu_backward: _cpu_attention_backward,
    aten._grouped_mm: grouped_product_flops,
    aten.convolution_backward: _convolution_backward,
    aten.mkldnn_rnn_layer: recurrent_layer_flops,
    aten.mkldnn_rnn_layer_backward: recurrent_layer_backward_flops,
}

_READS_SOME_ROWS = frozenset({aten.embedding, aten.index, aten.index_select, aten.gather, aten.take})
"""Their first argument is read only where it is pointed at: as many bytes as come out."""

_STARTS_NOTHING = {aten.empty, aten.empty_like, aten.empty_strided, aten.new_empty, aten.new_empty_strided}
_STARTS_NOTHING |= {aten._unsafe_view, aten.sym_size, aten.sym_numel, aten.sym_stride}


def tensor_bytes(tensor: torch.Tensor) -> int:
    """Return the bytes that reading a tensor touches: expanded dimensions count once."""
    if tensor.layout is not torch.strided:
        return tensor.numel() * tensor.element_size()
    sizes = [size for size, stride in zip(tensor.shape, tensor.stride(), strict=True) if stride or not size]
    return prod(sizes) * tensor.element_size()


def describe(func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], out: Any) -> Operation | None:
    """Return what an ATen call does, or None if it starts no kernel (a view, an allocation, a query).

    Args:
        func: The overload that ran.
        args: Its positional arguments, with fake tensors.
        kwargs: Its keyword arguments.
        out: What it returned.

    Returns:
        FLOPs and bytes; bytes are those of all tensors that go in and come out.
    """
    packet = func.overloadpacket
    if func.namespace == "prim" or func.is_view or packet in _STARTS_NOTHING:
        return None
    read = [leaf for leaf in pytree.tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
    made = [leaf for leaf in pytree.tree_leaves(out) if isinstance(leaf, torch.Tensor)]
    read_bytes, made_bytes = [tensor_bytes(t) for t in read], sum(tensor_bytes(t) for t in made)
    if packet in _READS_SOME_ROWS:
        read_bytes[0] = min(read_bytes[0], made_bytes)
    formula = _MORE_FORMULAS.get(packet) or flop_registry.get(packet)
    flops = int(formula(*args, **kwargs, out_val=out)) if formula else 0
    floating = [t.dtype for t in (*read, *made) if t.dtype.is_floating_point or t.dtype.is_complex]
    dtype = dtype_name(floating[0] if floating else torch.float32)
    workspace_bytes = recurrent_workspace_bytes(args) if packet is aten.mkldnn_rnn_layer else 0
    return Operation(str(packet), flops, sum(read_bytes) + made_bytes, dtype, workspace_bytes)
