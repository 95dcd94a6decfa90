"""Tied tensors on other devices than their owner's: a replica there, seen only while a stage runs.

::

    device 0   stage 0  owner of wte.weight ──── refresh before a step ───►  replica   stage 2   device 1
                              .grad  ◄───────── added after the step ──────  .grad

The replica is in no ``parameters()`` and in no state dict. It takes the place of the entry in the leaf's own
``_parameters`` for the time in which the stage runs, so that the leaf, its hooks and everything else see it.
"""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import nn

from autopipe.ir.stages import StagedModel, StageModule


@dataclass(frozen=True, slots=True)
class Entry:
    """The place of a tensor in a module: a key of its ``_parameters`` or ``_buffers``."""

    mapping: MutableMapping[str, Any]
    name: str

    @property
    def tensor(self) -> torch.Tensor:
        """What is there now."""
        found = self.mapping[self.name]
        assert isinstance(found, torch.Tensor)
        return found


def entries_of(stage: StageModule, tensor: torch.Tensor) -> list[Entry]:
    """Return every place in a stage that holds a tensor."""
    found = []
    for module in stage.module.modules():
        for mapping in (module._parameters, module._buffers):
            found += [Entry(mapping, name) for name, held in mapping.items() if held is tensor]
    return found


@contextmanager
def replaced(entries: Sequence[tuple[Entry, torch.Tensor]]) -> Iterator[None]:
    """Put other tensors into the entries, and the old ones back in the end."""
    before = [(entry, entry.tensor) for entry, _ in entries]
    try:
        for entry, tensor in entries:
            entry.mapping[entry.name] = tensor
        yield
    finally:
        for entry, tensor in reversed(before):
            entry.mapping[entry.name] = tensor


class TiedCopies(Protocol):
    """Keeps copies of tied tensors where their owner is not, for an engine."""

    def add(self, staged: StagedModel) -> None:
        """Make the copies that a split model needs."""
        ...

    def in_place(self, stage: int) -> AbstractContextManager[None]:
        """Let a stage see its copies."""
        ...

    def refresh(self) -> None:
        """Copy every owner's value to its copies."""
        ...

    def collect(self) -> None:
        """Add the gradients of the copies to their owners'."""
        ...

    def drop_gradients(self) -> None:
        """Forget the gradients of the copies."""
        ...


class Replicas:
    """The replicas of an engine.

    Args:
        model: The user's model, which names the tensors.
        devices: ``[n_stages]`` where each stage lives.
    """

    def __init__(self, model: nn.Module, devices: Sequence[torch.device]) -> None:
        """Start without replicas; each split model adds those that it needs."""
        self._model, self._devices = model, tuple(devices)
        self._made: dict[tuple[str, torch.device], torch.Tensor] = {}
        self._entries: dict[int, list[tuple[Entry, torch.Tensor]]] = {}

    def add(self, staged: StagedModel) -> None:
        """Make the replicas that the tied tensors of a split model need."""
        named = {**dict(self._model.named_parameters()), **dict(self._model.named_buffers())}
        for tied in staged.tied:
            for stage in tied.replicas:
                device = self._devices[stage]
                if device != self._devices[tied.owner]:
                    owner = named[tied.fqn]
                    if (tied.fqn, device) not in self._made:
                        self._made[tied.fqn, device] = _copy(owner, device)
                    replica = self._made[tied.fqn, device]
                    found = entries_of(staged.stages[stage], owner)
                    self._entries.setdefault(stage, []).extend((entry, replica) for entry in found)

    @contextmanager
    def in_place(self, stage: int) -> Iterator[None]:
        """Let a stage see its replicas."""
        with replaced(self._entries.get(stage, [])):
            yield

    def refresh(self) -> None:
        """Copy every owner's value to its replicas."""
        with torch.no_grad():
            for fqn, replica in self._replicas():
                replica.copy_(self._owner(fqn))

    def collect(self) -> None:
        """Add the gradients of the replicas to their owners'."""
        with torch.no_grad():
            for fqn, replica in self._replicas():
                if replica.grad is not None:
                    owner = self._owner(fqn)
                    gradient = replica.grad.to(owner.device)
                    owner.grad = gradient if owner.grad is None else owner.grad.add_(gradient)
        self.drop_gradients()

    def drop_gradients(self) -> None:
        """Forget the gradients of the replicas."""
        for _, replica in self._replicas():
            replica.grad = None

    def _replicas(self) -> list[tuple[str, torch.Tensor]]:
        return [(fqn, replica) for (fqn, _), replica in self._made.items()]

    def _owner(self, fqn: str) -> torch.Tensor:
        prefix, _, name = fqn.rpartition(".")
        found = getattr(self._model.get_submodule(prefix), name)
        assert isinstance(found, torch.Tensor)
        return found


def _copy(owner: torch.Tensor, device: torch.device) -> torch.Tensor:
    copy = owner.detach().to(device, copy=True)
    return nn.Parameter(copy, owner.requires_grad) if isinstance(owner, nn.Parameter) else copy
