"""A forward that keeps what it was called with and nothing that it computed; the backward runs it again.

::

    F   inputs ─► stage ─► results          every tensor that autograd would save: an empty slot
    B   inputs ─► stage ─► slots filled     the same operations in the same order, then the backward

The graph is that of the first forward, so that gradients are added in the order in which they always are;
the graph of the second is dropped. Both forwards meet the same numbers: random nodes are keyed, and what the
stage writes (the statistics of a BatchNorm) is for the second a copy of what the first found: it counts once.

Source: Chen et al., Training Deep Nets with Sublinear Memory Cost, 2016, https://arxiv.org/abs/1604.06174;
the slots are those of ``torch.utils.checkpoint`` with ``use_reentrant=False``.
"""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, NoReturn

import torch

from autopipe.errors import EngineError
from autopipe.ir.stages import StageModule
from autopipe.rewrite.written import storage_of
from autopipe.runtime.old_values import Saved, entry_named
from autopipe.runtime.replicas import replaced
from autopipe.runtime.stage_call import call_stage


@dataclass(slots=True, eq=False, weakref_slot=True)
class _Slot:
    """The place of a tensor that autograd would have saved."""

    shape: torch.Size
    dtype: torch.dtype
    saved: Saved | None = None

    def value(self) -> torch.Tensor:
        """Return the tensor, now that it has been computed again."""
        assert self.saved is not None, "the backward of a stage began before its second forward"
        return self.saved.value()


class RunAgain:
    """One microbatch of a stage that recomputes, between its two forwards.

    Args:
        stage: The stage.
        values: What it is called with, by name.
    """

    def __init__(self, stage: StageModule, values: Mapping[str, Any]) -> None:
        """Keep the inputs, and a copy of what the forward will write."""
        self._stage = stage
        self._values = {argument.name: values[argument.name] for argument in stage.arguments}
        self._before = _copies(stage)
        self._slots: list[weakref.ref[_Slot]] = []  # autograd holds them as long as it needs them
        self._next = 0

    def hooks(self) -> AbstractContextManager[None]:
        """Return what is entered while the first forward runs."""
        return torch.autograd.graph.saved_tensors_hooks(self._leave_out, _Slot.value)

    def run(self) -> None:
        """Run the stage again, and fill the slots; called under the modes of the first forward.

        Raises:
            EngineError: If the stage did not compute the same again.
        """
        places = [(entry_named(self._stage, name), copy) for name, copy in self._before.items()]
        with replaced(places), torch.autograd.graph.saved_tensors_hooks(self._fill, _never):
            call_stage(self._stage, self._values)
        if self._next != len(self._slots):
            raise self._differs(f"{self._next} tensors for the backward, not {len(self._slots)}")
        self._values, self._before = {}, {}

    def _leave_out(self, tensor: torch.Tensor) -> _Slot:
        slot = _Slot(tensor.shape, tensor.dtype)
        self._slots.append(weakref.ref(slot))
        return slot

    def _fill(self, tensor: torch.Tensor) -> None:
        if self._next == len(self._slots):
            raise self._differs(f"more than {len(self._slots)} tensors for the backward")
        slot = self._slots[self._next]()
        self._next += 1
        if slot is None:
            return
        if (slot.shape, slot.dtype) != (tensor.shape, tensor.dtype):
            found, expected = _described(tensor.shape, tensor.dtype), _described(slot.shape, slot.dtype)
            raise self._differs(f"a tensor {found} where it was {expected}")
        slot.saved = Saved.of(tensor)

    def _differs(self, how: str) -> EngineError:
        return EngineError(
            f"stage {self._stage.index} did not compute the same again: its second forward kept {how}.",
            why="Within the memory limit it runs its forward twice; the second went another way.",
            remedy="a larger memory_limit, or opaque= for the module that depends on more than its inputs.",
        )


def _copies(stage: StageModule) -> dict[str, torch.Tensor]:
    """Copy what a forward writes; what shares memory still does."""
    storages: dict[int, torch.UntypedStorage] = {}
    found = {}
    for name in stage.mutated:
        tensor = entry_named(stage, name).tensor
        shared = storage_of(tensor)
        if shared not in storages:
            storages[shared] = tensor.untyped_storage().clone()  # type: ignore[no-untyped-call]
        copy = torch.empty(0, dtype=tensor.dtype, device=tensor.device)
        copy.set_(storages[shared], tensor.storage_offset(), tensor.size(), tensor.stride())
        found[name] = copy.requires_grad_(tensor.requires_grad)
    return found


def _described(shape: torch.Size, dtype: torch.dtype) -> str:
    return f"{list(shape)} of {str(dtype).removeprefix('torch.')}"


def _never(slot: None) -> NoReturn:
    raise AssertionError("nothing goes back through the second forward")
