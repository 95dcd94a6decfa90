"""The graph that is being written, and what is known of each of its nodes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import fx

from autopipe.ir.structure import tensors_in
from autopipe.ir.tensor import TensorSpec
from autopipe.ir.traced import NodeInfo, Region
from autopipe.trace.effects import Effects, storage_of
from autopipe.trace.sizes import Sizes
from autopipe.trace.source import user_line


def dtype_name(dtype: torch.dtype) -> str:
    """Return ``"float32"`` for ``torch.float32``."""
    return str(dtype).removeprefix("torch.")


def current_region(device_type: str) -> Region:
    """Return the modes that are on in this thread."""
    types = sorted({"cpu", device_type} - {"meta"})
    autocast = tuple(
        (t, dtype_name(torch.get_autocast_dtype(t))) for t in types if torch.is_autocast_enabled(t)
    )
    return Region(torch.is_grad_enabled(), torch.is_inference_mode_enabled(), autocast)


class Program:
    """The nodes so far, their keys, and who reads and writes which memory.

    Args:
        sizes: The symbolic sizes of this capture.
        device: The device that the example is captured on.
    """

    def __init__(self, sizes: Sizes, device: torch.device) -> None:
        """Start with an empty graph."""
        self.graph = fx.Graph()
        self.info: dict[str, NodeInfo] = {}
        self.effects = Effects()
        self.sizes, self.device = sizes, device
        self.modules: list[str] = [""]
        self.written_tensors: dict[str, torch.Tensor] = {}
        self._of_unknown_size: list[fx.Node] = []
        self._recompute = ""
        self.is_below_autograd = False
        self._wanting: set[str] = set()
        self._ordinals: dict[str, int] = {}

    def spec(self, tensor: torch.Tensor) -> TensorSpec:
        """Return what is known of a tensor."""
        shape = tuple(self.sizes.printed(size) for size in tensor.shape)
        return TensorSpec(shape, dtype_name(tensor.dtype), tensor.requires_grad)

    def bound_sizes(self, out: Any, read: Sequence[torch.Tensor]) -> None:
        """Note how large the tensors that a call returned can be, where values decide."""
        for tensor in tensors_in(out):
            self.sizes.bound(tensor, read)

    def of_unknown_size(self) -> list[tuple[str, ...]]:
        """Return groups that share a stage: who makes a value whose size values decide, and who reads it."""
        return [(node.name, *(user.name for user in node.users)) for node in self._of_unknown_size]

    @contextmanager
    def checkpoint(self) -> Iterator[None]:
        """Note that the nodes inside belong to one call of ``torch.utils.checkpoint``, the outermost."""
        before = self._recompute
        key = f"{self.modules[-1]}|checkpoint"
        ordinal = self._ordinals[key] = self._ordinals.get(key, -1) + 1
        self._recompute = before or f"{key}|{ordinal}"
        try:
            yield
        finally:
            self._recompute = before

    @contextmanager
    def below_autograd(self) -> Iterator[None]:
        """While operators are recorded that autograd is yet to hear of, so that their results do not tell."""
        before, self.is_below_autograd = self.is_below_autograd, True
        try:
            yield
        finally:
            self.is_below_autograd = before

    def region(self) -> Region:
        """Return the modes that are on now."""
        return current_region(self.device.type)

    def describe(
        self, node: fx.Node, label: str, out: Any, storages: Iterable[int] = (), **known: Any
    ) -> None:
        """Note what is known of a new node.

        Args:
            node: The node.
            label: The operation, part of the node's key.
            out: What the call returned.
            storages: The memory that the arguments lie in.
            known: Fields of NodeInfo.
        """
        fqn = known.pop("fqn", self.modules[-1])
        key = f"{fqn}|{label}"
        ordinal = self._ordinals[key] = self._ordinals.get(key, -1) + 1
        if any(self.sizes.is_decided_by_values(size) for tensor in tensors_in(out) for size in tensor.shape):
            self._of_unknown_size.append(node)
        spec = self.spec(out) if isinstance(out, torch.Tensor) else None
        if self.is_below_autograd and torch.is_grad_enabled() and self._wants_gradient(node):
            self._wanting.add(node.name)
            spec = spec and replace(spec, requires_grad=spec.is_differentiable)
        is_view = isinstance(out, torch.Tensor) and storage_of(out) in set(storages)
        known.setdefault("source", user_line())
        known.setdefault("recompute", self._recompute)
        self.info[node.name] = NodeInfo(f"{key}|{ordinal}", fqn, spec, is_view=is_view, **known)

    def _wants_gradient(self, node: fx.Node) -> bool:
        """Whether autograd will give a gradient to what a node makes of its arguments."""
        given = [(argument, self.info.get(argument.name)) for argument in node.all_input_nodes]
        return node.target is not torch.ops.aten.detach.default and any(
            argument.name in self._wanting or (info and info.spec and info.spec.requires_grad)
            for argument, info in given
        )
