"""What may not be cut apart because memory is shared and written.

Every storage that a tensor lies in has a log. A storage that nobody writes needs nothing: its views may lie
in any stage. A storage that is written has two cases:

* Only one tensor lies in it (``y = conv(x); relu_(y); y += z``). Each write made a new value, so a cut may
  fall anywhere; only the readers of the old value must not fall behind the write. A stage that writes into a
  value which it received copies it first.
* Several tensors lie in it (``y = x[0]; y += 1``). The write is seen through all of them, so the nodes that
  made them and the nodes that write stay in one stage.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence, Set
from dataclasses import dataclass, field

import torch


def storage_of(tensor: torch.Tensor) -> int:
    """Return what tells the memory of a tensor from that of others."""
    try:
        return int(tensor.untyped_storage()._cdata)
    except (NotImplementedError, RuntimeError):
        return id(tensor)


@dataclass(slots=True)
class _Log:
    """What happened to one storage, in program order."""

    tensors: set[int] = field(default_factory=set)
    makers: list[str] = field(default_factory=list)
    readers: list[str] = field(default_factory=list)
    writers: list[str] = field(default_factory=list)
    all_readers: list[str] = field(default_factory=list)
    before: list[tuple[str, str]] = field(default_factory=list)


class Effects:
    """The logs of all storages of one capture."""

    def __init__(self) -> None:
        """Start with no storage known."""
        self._logs: dict[int, _Log] = {}
        self._users: dict[str, list[str]] = {}
        self._changed: set[str] = set()
        self._attributes: dict[int, list[str]] = {}
        self._numbers: dict[str, int] = {}

    def _log(self, storage: int) -> _Log:
        return self._logs.setdefault(storage, _Log())

    def aliases(self, storage: int, tensor: int, node: str) -> None:
        """Note that a node made a tensor that lies in a storage."""
        log = self._log(storage)
        log.tensors.add(tensor)
        log.makers.append(node)

    def reads(self, storage: int, node: str) -> None:
        """Note that a node reads a storage."""
        self._log(storage).readers.append(node)

    def writes(self, storage: int, node: str) -> None:
        """Note that a node writes a storage: all its readers so far come before the write."""
        log = self._log(storage)
        log.all_readers += log.readers
        log.before += [(reader, node) for reader in log.readers if reader != node]
        log.readers.clear()
        log.writers.append(node)

    def lies_in(self, storage: int, name: str) -> None:
        """Note that a parameter, a buffer or a constant lies in a storage."""
        names = self._attributes.setdefault(storage, [])
        if name not in names:
            names.append(name)
            self._numbers.setdefault(name, len(self._numbers))

    def attributes_in(self, storages: Set[int]) -> list[str]:
        """Return the parameters, buffers and constants that lie in some storages, in the model's order."""
        found = {name for storage in storages for name in self._attributes.get(storage, ())}
        return sorted(found, key=self._numbers.__getitem__)

    def uses_attribute(self, name: str, node: str, *, changes: bool) -> None:
        """Note that a node reads a parameter, buffer or constant, and whether it writes it."""
        self._users.setdefault(name, []).append(node)
        if changes:
            self._changed.add(name)

    def together(self, alive: set[str], besides: Iterable[Sequence[str]] = ()) -> tuple[tuple[str, ...], ...]:
        """Return the groups of nodes (among those alive) that must share a stage, some for other reasons."""
        logs = [log for log in self._logs.values() if log.writers and len(log.tensors) > 1]
        groups = [[*log.makers, *log.writers] for log in logs]
        for storage, names in self._attributes.items():
            log = self._log(storage)
            if log.writers or self._changed.intersection(names):
                # The next microbatch writes it again, so no view of it may leave: its readers stay with it.
                groups.append([*log.makers, *log.writers, *log.all_readers, *log.readers])
        groups += [users for name, users in self._users.items() if name in self._changed]
        every = [*groups, *besides]
        return _merged([[name for name in group if name in alive] for group in every])

    def order(self, alive: set[str]) -> tuple[tuple[str, str], ...]:
        """Return the pairs (before, after) that must keep their order though no value passes."""
        pairs = [pair for log in self._logs.values() for pair in log.before]
        return tuple(dict.fromkeys(pair for pair in pairs if set(pair) <= alive))


def _merged(groups: list[list[str]]) -> tuple[tuple[str, ...], ...]:
    """Unite groups that share a member."""
    home: dict[str, list[str]] = {}
    for group in groups:
        united = list(group)
        for name in group:
            if name in home and home[name] is not united:
                united += [other for other in home[name] if other not in united]
        for name in united:
            home[name] = united
    unique = {id(group): group for group in home.values()}
    return tuple(tuple(dict.fromkeys(group)) for group in unique.values() if len(set(group)) > 1)
