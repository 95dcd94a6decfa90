"""Old numbers of what a stage writes, kept for the microbatches that are in flight.

Unsplit, the backward of a microbatch runs before the forward of the next. In a pipeline it does not, and the
next forward writes the buffers that this backward still needs::

    unsplit     F0 writes mean, keeps it    B0 reads it     F1 writes mean
    pipeline    F0 writes mean, keeps it    F1 writes mean  B0 would read what F1 wrote: reads a copy

The copy is made when the forward ends: up to there the unsplit model would have written too.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch

from autopipe.ir.stages import StageModule
from autopipe.rewrite.written import storage_of
from autopipe.runtime.replicas import Entry


@dataclass(slots=True, eq=False)
class Saved:
    """What autograd saved: an alias and its version at that time; or a copy, which nobody can modify."""

    tensor: torch.Tensor
    version: int | None

    @classmethod
    def of(cls, tensor: torch.Tensor) -> Saved:
        """Note an alias: the tensor itself would hold the graph that holds it."""
        alias = tensor.detach()
        return cls(alias, alias._version)

    def value(self) -> torch.Tensor:
        """Return the tensor, as autograd would without us.

        Raises:
            RuntimeError: If it was modified since; torch raises then for the unsplit model too.
        """
        if self.version is not None and self.tensor._version != self.version:
            raise RuntimeError(
                f"a tensor of shape {list(self.tensor.shape)} is needed for the gradient, but was modified "
                f"in place after it was read: it is at version {self.tensor._version}, not {self.version}."
            )
        return self.tensor


class OldValues:
    """Keeps what one forward of one microbatch needs of the tensors that its stage writes.

    Args:
        stage: The stage.
    """

    def __init__(self, stage: StageModule) -> None:
        """Find the memory that the stage writes."""
        self._written = {storage_of(entry_named(stage, name).tensor) for name in stage.written}
        self._saved: list[Saved] = []

    def hooks(self) -> AbstractContextManager[None]:
        """Return what is entered while the forward runs."""
        return torch.autograd.graph.saved_tensors_hooks(self._pack, Saved.value)

    def own_results(self, results: Mapping[str, Any]) -> dict[str, Any]:
        """Return the results, copied where they lie in memory that the next forward writes."""
        return {name: value.clone() if self._is_written(value) else value for name, value in results.items()}

    def copy(self) -> None:
        """Copy what autograd saved of memory that the next forward writes; the forward is over."""
        copies: dict[tuple[Any, ...], torch.Tensor] = {}
        for saved in self._saved:
            alias = saved.tensor
            if alias._version == saved.version:
                place = (alias.data_ptr(), alias.dtype, alias.shape, alias.stride())
                if place not in copies:
                    copies[place] = alias.clone()
                saved.tensor, saved.version = copies[place], None
        self._saved.clear()

    def _pack(self, tensor: torch.Tensor) -> Saved:
        saved = Saved.of(tensor)
        if self._is_written(saved.tensor):
            self._saved.append(saved)
        return saved

    def _is_written(self, value: Any) -> bool:
        return isinstance(value, torch.Tensor) and storage_of(value) in self._written


def entry_named(stage: StageModule, name: str) -> Entry:
    """Return the place of a parameter, buffer or constant in the module of a stage, by its name there."""
    prefix, _, attribute = name.rpartition(".")
    owner = stage.module.get_submodule(prefix)
    mappings = (owner._parameters, owner._buffers, vars(owner))
    return Entry(next(mapping for mapping in mappings if attribute in mapping), attribute)
