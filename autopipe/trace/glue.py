"""The few functions that autopipe itself puts into a graph."""

from __future__ import annotations

import sys
from typing import Any

import torch
from torch.fx.node import _get_qualified_name

from autopipe.errors import CaptureError
from autopipe.ir.structure import Structure
from autopipe.ir.tensor import TensorSpec
from autopipe.trace.hidden_results import state_of

ON_RANDOM_NUMBERS = "it branches on random numbers"
"""Why a module is kept whole that drops layers at random."""


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


def asking_gradient(value: torch.Tensor) -> torch.Tensor:
    """Return ``value``, from here on requiring a gradient: ``value.requires_grad = True``."""
    return value if value.requires_grad else value.detach().requires_grad_()


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


class Expected:
    """Checks what a leaf returns where the capture may err: hooks change it, or it was learnt by trial.

    Args:
        fqn: The leaf.
        structure: Of what its forward returned during capture.
        specs: The tensors in it.
        learnt_for: Why it was learnt by trial, on other values; None: it was not.
        states: What it left of each object that it was given; None: whatever it is.
    """

    def __init__(
        self,
        fqn: str,
        structure: Structure,
        specs: tuple[TensorSpec, ...],
        learnt_for: str | None,
        states: tuple[bytes | None, ...] = (),
    ) -> None:
        """Keep what is expected."""
        self.states = states
        self.fqn, self.structure, self.specs, self.learnt_for = fqn, structure, specs, learnt_for
        self.__name__ = self.__qualname__ = "expected"
        self.__module__ = __name__

    def __call__(self, value: Any, *objects: Any, **sizes: int) -> Any:
        """Return the value.

        Raises:
            CaptureError: If its structure, shape or dtype is not that of the capture, or an object's state.
        """
        for given, state in zip(objects, self.states, strict=True):
            if state is not None and state_of(given) != state:
                raise self._error(f"after it has changed a {type(given).__name__} in another way")
        structure, holes = Structure.of(value)
        tensors = [hole for hole in holes if isinstance(hole, torch.Tensor)]
        found = [(tuple(tensor.shape), str(tensor.dtype)) for tensor in tensors]
        expected = [(spec.concrete_shape(sizes), f"torch.{spec.dtype}") for spec in self.specs]
        is_built_alike = structure.tree == self.structure.tree
        if self.learnt_for is not None:
            is_built_alike = structure.plain == self.structure.plain
        if not is_built_alike or found != expected:
            raise self._error(f"{found} instead of {expected}" if found != expected else "another structure")
        return value

    def _error(self, what: str) -> CaptureError:
        if self.learnt_for is not None and self.learnt_for.startswith(ON_RANDOM_NUMBERS):
            return CaptureError(
                f"{self.fqn} returns {what}: what it draws decides what it returns.",
                where=f"in {self.fqn}, kept whole: {self.learnt_for}",
                why="The rest of the model was captured with what it returned on other draws.",
                remedy="set the probability at that line to 0, or ask for no results of single layers\n"
                "(output_attentions=False, output_router_logits=False).",
            )
        if self.learnt_for is not None:
            return CaptureError(
                f"{self.fqn} returns {what}: what it returns depends on the values that it is given.",
                where=f"in {self.fqn}, kept whole: {self.learnt_for}",
                why="The rest of the model was captured with what it returned on other values.",
                remedy="let it return tensors of the same sizes, and the same plain values, in every call.",
            )
        return CaptureError(
            f"a forward hook changes what {self.fqn} returns: {what}.",
            where=f"in {self.fqn}",
            why="The rest of the model was captured with what its forward returns.",
            remedy="do in a module what the hook does, or register it on a module with children, which "
            "is then kept whole.",
        )


class Apply:
    """Calls a custom autograd function, under its own name.

    Args:
        function: The class.
    """

    def __init__(self, function: type[torch.autograd.Function]) -> None:
        """Take the class."""
        self.function = function
        self.__name__ = self.__qualname__ = function.__name__
        self.__module__ = __name__

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run its forward, and let autograd know its backward."""
        return self.function.apply(*args, **kwargs)  # type: ignore[no-untyped-call]


class Spelled:
    """Calls a function that no name leads to, so that generated code could not spell it.

    Args:
        function: Such as ``Tensor.__pow__``, which wraps another one and took its name, or a scripted one.
        name: What to call it.
    """

    def __init__(self, function: Any, name: str) -> None:
        """Take the function."""
        self.function = function
        self.__name__ = self.__qualname__ = name
        self.__module__ = __name__

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call it."""
        return self.function(*args, **kwargs)


def spelled(function: Any) -> Any:
    """Return a function that generated code can call by its name: itself, or a stand-in of that name."""
    if not str(getattr(function, "__module__", None)).startswith("torch"):
        return function
    found: Any = sys.modules.get("torch")
    for name in _get_qualified_name(function).split(".")[1:]:
        found = getattr(found, name, None)
    return (
        function if found is function or _is_same(found, function) else Spelled(function, function.__name__)
    )


def _is_same(one: Any, other: Any) -> bool:
    """Whether two names lead to one method, which a class may make anew each time it is asked for."""
    return one is not None and one == other
