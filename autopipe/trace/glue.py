"""The few functions that autopipe itself puts into a graph."""

from __future__ import annotations

from typing import Any

import torch

from autopipe.ir.structure import Structure


def written(value: Any, _writer: Any) -> Any:
    """Return ``value`` once ``_writer`` has run, which modified it in place."""
    return value


def passed_through(value: Any) -> Any:
    """Return ``value``: an argument or a parameter that the model returns as it is."""
    return value


def tensor_leaf(value: Any, index: int) -> Any:
    """Return tensor ``index`` of a dict, a dataclass or any other object."""
    return Structure.of(value)[1][index]


def read_property(value: torch.Tensor, name: str) -> Any:
    """Return a property of a tensor, such as ``x.T``."""
    return getattr(value, name)


class Held:
    """A function of no arguments that returns an object which an fx graph cannot spell."""

    def __init__(self, value: Any) -> None:
        """Take the object."""
        self.value = value
        self.__name__ = self.__qualname__ = f"held_{type(value).__name__}"
        self.__module__ = __name__

    def __call__(self) -> Any:
        """Return the object."""
        return self.value


class Rebuild:
    """A function of tensors that builds the object which held them: an argument of a leaf."""

    def __init__(self, structure: Structure) -> None:
        """Take the object without its tensors."""
        self.structure = structure
        self.__name__ = self.__qualname__ = "rebuild"
        self.__module__ = __name__

    def __call__(self, *holes: Any) -> Any:
        """Return the object with these tensors."""
        return self.structure.fill(holes)
