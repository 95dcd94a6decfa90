"""Runs of one call on small real tensors, at several values and sizes, and what they agree about."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import combinations_with_replacement
from types import MappingProxyType
from typing import Any

import torch
from torch.utils._python_dispatch import _disable_current_modes

from autopipe.errors import CaptureError
from autopipe.ir.structure import Structure, map_tensors, tensors_in
from autopipe.ir.tensor import evaluate_size
from autopipe.trace.program import Program

LIMIT_BYTES = 1 << 30
"""Calls whose arguments are larger than this are not run for real: planning must fit a laptop."""

_REMEDY = "let it return the same number of tensors, their sizes and plain values the same for all values"

_VALUES = 3
"""How many runs with different values must agree about the sizes."""


class Trials:
    """Runs of one call on real tensors.

    Args:
        run: The call.
        given: Its positional and keyword arguments, fake tensors inside.
        program: Knows the symbolic sizes and the device.
        parameters: What else the results may need gradients for.
        examples: The values of those fake tensors that are arguments of the model itself, by identity.
    """

    def __init__(
        self,
        run: Callable[..., Any],
        given: tuple[Any, Any],
        program: Program,
        parameters: Sequence[torch.Tensor] = (),
        examples: Mapping[int, torch.Tensor] = MappingProxyType({}),
    ) -> None:
        self._run, self._given, self._device, self._sizes = run, given, program.device, program.sizes
        self._fakes, self._examples = tensors_in(given), examples
        self._written: set[int] = set()
        self._left: list[tuple[Structure | None, dict[int, int]]] = []
        self._hints = {name: self._sizes.hints[name] for name in self._sizes.names}
        self._moved = [{**self._hints, name: hint + 1} for name, hint in self._hints.items()]
        trained = any(tensor.requires_grad for tensor in [*self._fakes, *parameters])
        self._wants_grad = torch.is_grad_enabled() and trained

    def results(self, error: Exception) -> tuple[Structure, list[Any]]:
        """Return the structure of what the call returns, and fake tensors for it.

        Raises:
            CaptureError: If the results depend on values in more than the numbers in tensors, or there are
                others that it does not return.
            Exception: ``error``, if the call fails.
        """
        if sum(map(self._nbytes, self._fakes)) > LIMIT_BYTES or self._is_of_unknown_size():
            raise error
        try:
            with _disable_current_modes(), torch._C.DisableTorchFunction(), torch.random.fork_rng(devices=[]):
                by_value = [self._trial(self._hints, value) for value in range(_VALUES)]
                by_size = [self._trial(point, 0) for point in self._moved]
        except CaptureError:
            raise
        except Exception as failed:
            raise error from failed
        structure, first = by_value[0]
        for _, holes in by_value[1:]:
            if [_shape(hole) for hole in holes] != [_shape(hole) for hole in first]:
                raise self._refusal(
                    "the sizes of what it returns depend on the values that it is given: "
                    f"{_shapes(first)} once, {_shapes(holes)} another time."
                ) from error
        every = [*by_value, *by_size]
        if any(other.plain != structure.plain or _dtypes(holes) != _dtypes(first) for other, holes in every):
            raise self._refusal(
                "what it returns besides the numbers in tensors depends on what it is given."
            ) from error
        if any(left != self._left[0] for left in self._left):
            raise self._refusal(
                "what it leaves in an object besides the numbers in tensors depends on what it is given."
            ) from error
        if any(len(holes) != len(first) for _, holes in by_size):
            raise error
        seen = [first, *(holes for _, holes in by_size)]
        kept = {i: self._fakes[index] for i, index in self._left[0][1].items()}
        columns = [[holes[i] for holes in seen] for i in range(len(first))]
        made = [kept[i] if i in kept else self._fake(column, error) for i, column in enumerate(columns)]
        return structure, made

    def _refusal(self, what: str) -> CaptureError:
        return CaptureError(what, where=_described(self._run), remedy=_REMEDY)

    def written(self) -> list[torch.Tensor]:
        """Return the arguments that any of the runs wrote into."""
        return [self._fakes[index] for index in sorted(self._written)]

    def _is_of_unknown_size(self) -> bool:
        sizes = [size for fake in self._fakes for size in fake.shape]
        return any(map(self._sizes.is_decided_by_values, sizes))

    def _trial(self, point: Mapping[str, int], value: int) -> tuple[Structure, list[Any]]:
        args, kwargs = map_tensors(lambda hole: self._real(hole, point, value), self._given)
        torch.manual_seed(value)
        structure, before = Structure.of((args, kwargs))
        versions = [tensor._version for tensor in before]
        out = self._run(*args, **kwargs)
        self._written |= {i for i, tensor in enumerate(before) if tensor._version != versions[i]}
        return self._with_left(out, (args, kwargs), structure, before)

    def _with_left(
        self, out: Any, given: Any, structure: Structure, before: Sequence[Any]
    ) -> tuple[Structure, list[Any]]:
        """Return what a run returned and, if it changed objects that it was given, its arguments after it."""
        left, after = Structure.of(given)
        is_changed = left != structure or any(a is not b for a, b in zip(after, before, strict=False))
        if not is_changed:
            self._left.append((None, {}))
            return Structure.of((out,))
        found, holes = Structure.of((out, given))
        place = {id(tensor): index for index, tensor in enumerate(before)}
        n_returned = len(holes) - len(after)
        kept = {i: place[id(h)] for i, h in enumerate(holes) if i >= n_returned and id(h) in place}
        self._left.append((left, kept))
        return found, holes

    def _real(self, hole: Any, point: Mapping[str, int], value: int) -> Any:
        """Return a real tensor like a fake one at these sizes; ints are 0 or 1, which can index anything.

        An argument of the model itself can have the values of the example, its rows in another order.
        """
        if not isinstance(hole, torch.Tensor):
            return evaluate_size(self._sizes.printed(hole), point)
        shape = [evaluate_size(self._sizes.printed(size), point) for size in hole.shape]
        if id(hole) in self._examples:
            return _resized(self._examples[id(hole)], shape, value).requires_grad_(hole.requires_grad)
        if hole.is_floating_point() or hole.is_complex():
            made = torch.randn(shape, dtype=torch.float32) * value
            return made.to(hole.dtype)
        if value < _VALUES - 1:
            return torch.full(shape, value, dtype=hole.dtype)
        return torch.randint(0, 2, shape).to(hole.dtype)

    def _fake(self, seen: list[Any], error: Exception) -> Any:
        """Return a fake tensor with the sizes of the real ones, symbolic where they moved."""
        if not isinstance(seen[0], torch.Tensor):
            return seen[0]
        shape = []
        for values in zip(*(tensor.shape for tensor in seen), strict=True):
            fitting = next(self._fitting(values), None)
            if fitting is None:
                raise error
            shape.append(fitting)
        result = torch.empty(shape, dtype=seen[0].dtype, device=self._device)
        if self._wants_grad and (result.is_floating_point() or result.is_complex()):
            return result.requires_grad_().clone()
        return result

    def _fitting(self, values: tuple[int, ...]) -> Iterator[Any]:
        """Find sizes that have these values at the hints and at every moved point."""
        if len(set(values)) == 1:
            yield values[0]
        known = [size for fake in self._fakes for size in fake.shape if isinstance(size, torch.SymInt)]
        products = [a * b for a, b in combinations_with_replacement(known, 2)]
        points = [self._hints, *self._moved]
        for size in [*known, *products]:
            found = [evaluate_size(self._sizes.printed(size), point) for point in points]
            if tuple(found) == values:
                yield size

    def _nbytes(self, fake: torch.Tensor) -> int:
        count = fake.element_size()
        for size in fake.shape:
            count *= evaluate_size(self._sizes.printed(size), self._sizes.hints)
        return count


def _described(run: Callable[..., Any]) -> str:
    return f"in {getattr(run, '__qualname__', type(run).__name__)}"


def _resized(example: torch.Tensor, shape: Sequence[int], shift: int) -> torch.Tensor:
    """Return an example, its rows moved on, with the last ones repeated or left out where sizes differ."""
    resized = example.detach().cpu()
    resized = resized.roll(shift, 0) if resized.dim() else resized
    for dim, size in enumerate(shape):
        resized = resized.index_select(dim, torch.arange(size).clamp(max=example.shape[dim] - 1))
    return resized.clone()


def _dtypes(holes: Sequence[Any]) -> list[Any]:
    return [hole.dtype if isinstance(hole, torch.Tensor) else type(hole) for hole in holes]


def _shape(hole: Any) -> Any:
    return tuple(hole.shape) if isinstance(hole, torch.Tensor) else hole


def _shapes(holes: Sequence[Any]) -> str:
    return ", ".join(str(list(hole.shape)) for hole in holes if isinstance(hole, torch.Tensor))
