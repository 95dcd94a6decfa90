"""Takes the tensors out of any Python value, and puts others in: the pytree of arguments and outputs.

What ``torch.utils._pytree`` knows (dicts, NamedTuples, ModelOutput ...) goes through it. Any other object
that holds tensors (a dataclass, a key-value cache) is taken apart by ``pickle``, whose ``persistent_id``
hook is called for every object inside: tensors become holes, and loading the rest again with the holes
filled makes a new object.
"""

from __future__ import annotations

import io
import pickle
import types
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils import _pytree as pytree

from autopipe.errors import ArgumentError
from autopipe.ir.key_paths import leaves_with_paths

_BY_REFERENCE = (
    type,
    types.FunctionType,
    types.BuiltinFunctionType,
    types.ModuleType,
    torch.nn.Module,
    torch.UntypedStorage,  # that of a fake tensor has no memory to pickle
    torch.TypedStorage,
)
_PLAIN = (
    type(None),
    bool,
    int,
    float,
    complex,
    str,
    bytes,
    torch.dtype,
    torch.device,
    torch.memory_format,
    torch.layout,
)


def is_hole(value: object) -> bool:
    """Whether a value is taken out: a tensor, or a size that is symbolic during capture."""
    return isinstance(value, torch.Tensor | torch.SymInt | torch.SymFloat | torch.SymBool)


@dataclass(frozen=True, slots=True, eq=False)
class _Fixed:
    """A plain leaf, kept as it is. Python can tell 1, 1.0 and True apart, so they are not equal here."""

    value: Any

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, _Fixed) or type(self.value) is not type(other.value):
            return False
        if isinstance(self.value, float | complex):
            return repr(self.value) == repr(other.value)
        return self.value is other.value or bool(self.value == other.value)

    def __hash__(self) -> int:
        return hash(type(self.value))

    def fill(self, _holes: Sequence[Any]) -> Any:
        return self.value


@dataclass(frozen=True, slots=True)
class _Hole:
    """A leaf that is one tensor."""

    index: int

    def fill(self, holes: Sequence[Any]) -> Any:
        return holes[self.index]


@dataclass(frozen=True, slots=True)
class _Object:
    """A leaf that pytree does not know: pickled, holes and references left out.

    Filling it makes a new object each time, so that a forward which changes it changes no one else's.
    """

    pickled: bytes
    references: tuple[Any, ...]
    holes: tuple[int, ...]

    def fill(self, holes: Sequence[Any]) -> Any:
        return _Unpickler(io.BytesIO(self.pickled), self.references, [holes[i] for i in self.holes]).load()


class _Pickler(pickle.Pickler):
    """Leaves holes and what must keep its identity out of the pickle."""

    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file, protocol=5)
        self.holes: list[Any] = []
        self.references: list[Any] = []

    def persistent_id(self, obj: Any) -> tuple[str, int] | None:
        if is_hole(obj):
            return self._index("hole", self.holes, obj)
        if isinstance(obj, _BY_REFERENCE):
            return self._index("reference", self.references, obj)
        return None

    @staticmethod
    def _index(kind: str, seen: list[Any], obj: Any) -> tuple[str, int]:
        for index, other in enumerate(seen):
            if other is obj:
                return kind, index
        seen.append(obj)
        return kind, len(seen) - 1


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: io.BytesIO, references: Sequence[Any], holes: Sequence[Any]) -> None:
        super().__init__(file)
        self._found = {"reference": references, "hole": holes}

    def persistent_load(self, pid: tuple[str, int]) -> Any:
        kind, index = pid
        return self._found[kind][index]


@dataclass(frozen=True, slots=True)
class Structure:
    """Everything about a value but its tensors.

    Two structures are equal if values with equal tensors would be equal.

    Example:
        >>> structure, holes = Structure.of({"x": torch.ones(2), "scale": 3})
        >>> len(holes), structure.paths
        (1, ("['x']",))
        >>> structure.fill([torch.zeros(1)])
        {'x': tensor([0.]), 'scale': 3}
    """

    tree: Any
    leaves: tuple[_Fixed | _Hole | _Object, ...]
    paths: tuple[str, ...]

    @classmethod
    def of(cls, value: Any) -> tuple[Structure, list[Any]]:
        """Take the tensors out of a value.

        Args:
            value: Any Python value.

        Returns:
            The structure, and the tensors (and symbolic sizes) in the order of ``paths``.

        Raises:
            ArgumentError: If an object cannot be looked into, because it does not pickle.
        """
        tree = pytree.tree_structure(value)
        holes: list[Any] = []
        leaves: list[_Fixed | _Hole | _Object] = []
        paths: list[str] = []
        for path, leaf in leaves_with_paths(value):
            if is_hole(leaf):
                leaves.append(_Hole(len(holes)))
                holes.append(leaf)
                paths.append(path)
            else:
                made, inner = _take_apart(leaf, path, len(holes))
                leaves.append(made)
                holes += inner
                paths += [f"{path}<{i}>" for i in range(len(inner))]
        return cls(tree, tuple(leaves), tuple(paths)), holes

    def fill(self, holes: Sequence[Any]) -> Any:
        """Build the value again, with these tensors in the places of the old ones."""
        return pytree.tree_unflatten([leaf.fill(holes) for leaf in self.leaves], self.tree)

    def verify(self) -> None:
        """Check that every tensor has one place and one path; else a bug of autopipe."""
        own = [leaf.index for leaf in self.leaves if isinstance(leaf, _Hole)]
        inner = [index for leaf in self.leaves if isinstance(leaf, _Object) for index in leaf.holes]
        assert sorted(own + inner) == list(range(len(self.paths))), f"{self.paths} do not fit the places"
        assert len(self.leaves) == self.tree.num_leaves, f"{len(self.leaves)} leaves for {self.tree}"

    @property
    def plain(self) -> tuple[Any, ...]:
        """The tree and its plain values, without what objects hold besides tensors."""
        return (self.tree, *(None if isinstance(leaf, _Object) else leaf for leaf in self.leaves))

    @property
    def n_holes(self) -> int:
        """How many tensors were taken out."""
        return len(self.paths)


def _take_apart(leaf: Any, path: str, n_before: int) -> tuple[_Fixed | _Object, list[Any]]:
    if isinstance(leaf, (*_PLAIN, *_BY_REFERENCE)):
        return _Fixed(leaf), []
    file = io.BytesIO()
    pickler = _Pickler(file)
    try:
        pickler.dump(leaf)
    except Exception as error:
        raise ArgumentError(
            f"cannot look for tensors inside {path or 'the value'}, a {type(leaf).__name__}.",
            why=f"{type(error).__name__}: {error}",
            remedy="pass its tensors themselves, or register the class with torch.utils._pytree.",
        ) from error
    where = tuple(range(n_before, n_before + len(pickler.holes)))
    return _Object(file.getvalue(), tuple(pickler.references), where), pickler.holes


def tensors_in(value: Any) -> list[torch.Tensor]:
    """Return the tensors in a value, in order; an object that cannot be looked into holds none.

    Complexity: linear in the size of the value; containers that pytree knows are not pickled.
    """
    found: list[torch.Tensor] = []
    for leaf in pytree.tree_leaves(value):
        if isinstance(leaf, torch.Tensor):
            found.append(leaf)
        elif not isinstance(leaf, _PLAIN) and not isinstance(leaf, _BY_REFERENCE) and not is_hole(leaf):
            try:
                found += [hole for hole in _take_apart(leaf, "", 0)[1] if isinstance(hole, torch.Tensor)]
            except ArgumentError:
                continue
    return found


def map_tensors(function: Callable[[Any], Any], value: Any) -> Any:
    """Return the value with every tensor (and symbolic size) replaced by ``function`` of it."""
    structure, holes = Structure.of(value)
    return structure.fill([function(hole) for hole in holes])
