"""Results that a call does not return: it puts them into an object that it was given, such as a cache.

A leaf that fills an object gets a new one in every run, so that what it put there can be taken out of it::

    rebuild    = Rebuild()                        an empty cache
    attention  = call_module[attention](x, rebuild)
    left       = Left(rebuild, attention)         the keys that it holds by now

Whoever is given the object later on gets one of its own, with ``left`` inside.
"""

from __future__ import annotations

import io
import pickle
import types
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn

from autopipe.errors import CaptureError
from autopipe.ir.structure import tensors_in
from autopipe.ir.tensor import TensorSpec


def refuse_hidden_results(
    before: Sequence[torch.Tensor], after: Sequence[torch.Tensor], place: Callable[[], str]
) -> None:
    """Check that a call put no other tensors into an object that it was given.

    Args:
        before: The tensors in its arguments.
        after: Those in them after the call.
        place: Says where the call is.

    Raises:
        CaptureError: If it did.
    """
    if len(after) != len(before) or any(a is not b for a, b in zip(after, before, strict=True)):
        raise CaptureError(
            "a call puts tensors into an object that it was given, and a node can only return them.",
            where=place(),
            remedy="return the new tensors, and put them into the object outside of the module.",
        )


@dataclass(frozen=True, slots=True)
class HiddenResult:
    """A tensor that a leaf has put into an object.

    Args:
        tensor: The tensor.
        holder: The node of the object.
        index: Which of the tensors in it.
        n_tensors: How many there are.
    """

    tensor: torch.Tensor
    holder: fx.Node
    index: int
    n_tensors: int


def hidden_results(
    objects: Sequence[tuple[fx.Node, Any]],
    before: Sequence[torch.Tensor],
    after: Sequence[torch.Tensor],
    place: Callable[[], str],
) -> list[HiddenResult]:
    """Return the tensors that a leaf has put into objects that it was given.

    Args:
        objects: Those among its arguments that a node makes anew in every run, and the nodes.
        before: The tensors in its arguments.
        after: Those in them after the call.
        place: Says where the call is.

    Raises:
        CaptureError: If it put some elsewhere, such as into a list, or one into several objects.
    """
    known, found = {id(tensor) for tensor in before}, []
    if all(id(tensor) in known for tensor in after) and len(after) == len(before):
        return []
    for holder, value in objects:
        inside = tensors_in(value)
        new = [index for index, tensor in enumerate(inside) if id(tensor) not in known]
        found += [HiddenResult(inside[index], holder, index, len(inside)) for index in new]
    expected = [tensor for tensor in after if id(tensor) not in known]
    ids = {id(result.tensor) for result in found}
    if len(ids) != len(found) or ids != {id(tensor) for tensor in expected}:
        refuse_hidden_results(before, after, place)
    return found


def state_of(value: Any) -> bytes | None:
    """Return all of an object but its tensors and devices, to compare with it as it is another time.

    Returns:
        None if the object does not pickle, or has symbolic sizes.
    """
    file = io.BytesIO()
    try:
        _StatePickler(file).dump(value)
    except Exception:
        return None
    return file.getvalue()


class _StatePickler(pickle.Pickler):
    def persistent_id(self, obj: Any) -> str | None:
        if isinstance(obj, torch.Tensor | torch.device):
            return "tensor" if isinstance(obj, torch.Tensor) else "device"
        return str(id(obj)) if isinstance(obj, _BY_REFERENCE) else None


_BY_REFERENCE = (type, types.FunctionType, types.BuiltinFunctionType, types.ModuleType, nn.Module)


class Left:
    """Takes a tensor out of an object that a leaf has filled.

    Args:
        fqn: The leaf.
        index: Which of the tensors in the object.
        n_tensors: How many there were during capture.
        learnt: The tensor, if the leaf was learnt by trial.
    """

    def __init__(self, fqn: str, index: int, n_tensors: int, learnt: TensorSpec | None) -> None:
        """Keep what is expected."""
        self.fqn, self.index, self.n_tensors, self.learnt = fqn, index, n_tensors, learnt
        self.__name__ = self.__qualname__ = "left"
        self.__module__ = __name__

    def __call__(self, holder: Any, _filled_by: Any, **sizes: int) -> Any:
        """Return the tensor.

        Raises:
            CaptureError: If the leaf fills the object in another way than during capture.
        """
        tensors = tensors_in(holder)
        if len(tensors) != self.n_tensors:
            raise self._error(f"{len(tensors)} tensors instead of {self.n_tensors}")
        found = tensors[self.index]
        if self.learnt is not None:
            shape, dtype = self.learnt.concrete_shape(sizes), f"torch.{self.learnt.dtype}"
            if tuple(found.shape) != shape or str(found.dtype) != dtype:
                raise self._error(f"{tuple(found.shape)}, {found.dtype} instead of {shape}, {dtype}")
        return found

    def _error(self, what: str) -> CaptureError:
        return CaptureError(
            f"{self.fqn} leaves {what} in an object that it is given: it depends on the values.",
            where=f"in {self.fqn}",
            why="The rest of the model was captured with what it left there on other values.",
            remedy="return the new tensors, and put them into the object outside of the module.",
        )
