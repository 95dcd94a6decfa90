"""What a call returns when it cannot run on fake tensors: learnt by running it on small real ones.

A module that branches on data, or an operator whose fake kernel is missing, is run outside the capture: at
the sizes of the example, with several values, and once for each symbolic size at the next larger one. Where
a size of the result moved with the sizes of the arguments it is symbolic. The results themselves are thrown
away. What is learnt so is checked in every run.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import combinations_with_replacement
from types import MappingProxyType
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import _disable_current_modes

from autopipe.errors import CaptureError
from autopipe.ir.structure import Structure, map_tensors, tensors_in
from autopipe.ir.tensor import evaluate_size
from autopipe.trace.branches import DEPENDS_ON_DATA
from autopipe.trace.foreign import has_no_values
from autopipe.trace.hidden_results import refuse_hidden_results
from autopipe.trace.program import Program
from autopipe.trace.recorder import Recorder

LIMIT_BYTES = 1 << 30
"""Calls whose arguments are larger than this are not run for real: planning must fit a laptop."""

_REMEDY = "let it return the same number of tensors, their sizes and plain values the same for all values"

_VALUES = 3
"""How many runs with different values must agree about the sizes."""


def fake_results(
    error: Exception, target: Callable[..., Any], args: Any, kwargs: Any, program: Program
) -> Any:
    """Return fake results of a function whose fake kernel failed.

    Args:
        error: What the fake kernel raised.
        target: The function.
        args: Its positional arguments, fake tensors inside.
        kwargs: Its keyword arguments.
        program: Knows the symbolic sizes and the device.

    Raises:
        Exception: ``error`` itself, if the result depends on data or the function fails on real tensors too.
    """
    if isinstance(error, (*DEPENDS_ON_DATA, CaptureError)):
        raise error
    structure, holes = _Trials(target, (args, kwargs), program).results(error)
    if not structure.n_holes or len(structure.leaves) != structure.n_holes:
        raise error
    return structure.fill(holes)


def fake_results_of_module(
    error: Exception, module: nn.Module, args: Any, kwargs: Any, recorder: Recorder
) -> Any:
    """Return fake results of a module that cannot run on fake tensors; a copy of it runs on real ones.

    Args:
        error: What the module raised on fake tensors.
        module: The module, its weights fake.
        args: Its positional arguments, fake tensors inside.
        kwargs: Its keyword arguments.
        recorder: Knows the real weights, the sizes and the device.

    Raises:
        CaptureError: If the sizes of its results depend on the values that it is given.
        Exception: ``error`` itself, if the copy fails on real tensors too.
    """
    weights = [*module.parameters(), *module.buffers()]
    if sum(weight.numel() * weight.element_size() for weight in weights) > LIMIT_BYTES:
        raise error
    try:
        with _disable_current_modes(), torch._C.DisableTorchFunction():
            real_of = recorder.values.real_of
            memo = {id(weight): _real_weight(real_of.get(id(weight), weight)) for weight in weights}
            real = copy.deepcopy(module, memo)
    except Exception as copying:
        raise error from copying
    copies = [memo[id(weight)] for weight in weights]
    versions = [copied._version for copied in copies]
    given, parameters = (args, kwargs), list(module.parameters())
    try:
        trials = _Trials(real.forward, given, recorder.program, parameters)
        structure, holes = trials.results(error)
    except CaptureError:
        raise
    except Exception:
        examples = recorder.values.examples_among(tensors_in(given))
        if not examples:
            raise
        trials = _Trials(real.forward, given, recorder.program, parameters, examples)
        structure, holes = trials.results(error)
    changed = [copied._version != before for copied, before in zip(copies, versions, strict=True)]
    own = [weight for weight, is_changed in zip(weights, changed, strict=True) if is_changed]
    for fake in (*own, *trials.written()):
        torch.autograd.graph.increment_version(fake)
    return structure.fill(holes)


def _real_weight(weight: torch.Tensor) -> torch.Tensor:
    if has_no_values(weight):
        copied = torch.zeros(weight.shape, dtype=weight.dtype)
    else:
        copied = weight.detach().cpu().clone()
    return nn.Parameter(copied, weight.requires_grad) if isinstance(weight, nn.Parameter) else copied


class _Trials:
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
                raise CaptureError(
                    "the sizes of what it returns depend on the values that it is given: "
                    f"{_shapes(first)} once, {_shapes(holes)} another time.",
                    where=_described(self._run),
                    remedy=_REMEDY,
                ) from error
        every = [*by_value, *by_size]
        if any(other.plain != structure.plain or _dtypes(holes) != _dtypes(first) for other, holes in every):
            raise CaptureError(
                "what it returns besides the numbers in tensors depends on what it is given.",
                where=_described(self._run),
                remedy=_REMEDY,
            ) from error
        if any(len(holes) != len(first) for _, holes in by_size):
            raise error
        seen = [first, *(holes for _, holes in by_size)]
        return structure, [self._fake([holes[i] for holes in seen], error) for i in range(len(first))]

    def written(self) -> list[torch.Tensor]:
        """Return the arguments that any of the runs wrote into."""
        return [self._fakes[index] for index in sorted(self._written)]

    def _is_of_unknown_size(self) -> bool:
        sizes = [size for fake in self._fakes for size in fake.shape]
        return any(map(self._sizes.is_decided_by_values, sizes))

    def _trial(self, point: Mapping[str, int], value: int) -> tuple[Structure, list[Any]]:
        args, kwargs = map_tensors(lambda hole: self._real(hole, point, value), self._given)
        torch.manual_seed(value)
        before = tensors_in((args, kwargs))
        versions = [tensor._version for tensor in before]
        out = self._run(*args, **kwargs)
        self._written |= {i for i, tensor in enumerate(before) if tensor._version != versions[i]}
        refuse_hidden_results(before, tensors_in((args, kwargs)), lambda: _described(self._run))
        return Structure.of(out)

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
