"""What a call returns when it cannot run on fake tensors: learnt by running it on small real ones.

A module that branches on data, or an operator whose fake kernel is missing, is run outside the capture: at the sizes
of the example, with other values, and once for each symbolic size at the next larger one. Where a size of the result
moved with the sizes of the arguments it is symbolic, and the results themselves are thrown away.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from itertools import combinations_with_replacement
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException
from torch.fx.experimental.symbolic_shapes import GuardOnDataDependentSymNode
from torch.utils._python_dispatch import _disable_current_modes

from autopipe.errors import CaptureError
from autopipe.ir.structure import Structure, map_tensors, tensors_in
from autopipe.ir.tensor import evaluate_size
from autopipe.trace.recorder import Recorder
from autopipe.trace.sizes import Sizes

LIMIT_BYTES = 1 << 30
"""Calls whose arguments are larger than this are not run for real: planning must fit a laptop."""

DEPENDS_ON_DATA = (DataDependentOutputException, DynamicOutputShapeException, GuardOnDataDependentSymNode)


def fake_results(
    error: Exception, target: Callable[..., Any], args: Any, kwargs: Any, sizes: Sizes, device: torch.device
) -> Any:
    """Return fake results of a function whose fake kernel failed.

    Args:
        error: What the fake kernel raised.
        target: The function.
        args: Its positional arguments, fake tensors inside.
        kwargs: Its keyword arguments.
        sizes: The symbolic sizes of the capture.
        device: Where the results lie.

    Raises:
        Exception: ``error`` itself, if the result depends on data or the function fails on real tensors too.
    """
    if isinstance(error, (*DEPENDS_ON_DATA, CaptureError)):
        raise error
    found = _learn(target, args, kwargs, sizes, device)
    if found is None or not found[0].n_holes or len(found[0].leaves) != found[0].n_holes:
        raise error
    return found[0].fill(found[1])


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
        Exception: ``error`` itself, if the copy fails on real tensors too, or its results have no fixed sizes.
    """
    weights = [*module.parameters(), *module.buffers()]
    if sum(weight.numel() * weight.element_size() for weight in weights) > LIMIT_BYTES:
        raise error
    try:
        with _disable_current_modes(), torch._C.DisableTorchFunction():
            memo = {id(weight): _real_weight(recorder.real_of.get(id(weight), weight)) for weight in weights}
            real = copy.deepcopy(module, memo)
    except Exception as copying:
        raise error from copying
    found = _learn(
        real.forward, args, kwargs, recorder.sizes, recorder.device, parameters=list(module.parameters())
    )
    if found is None:
        raise error
    return found[0].fill(found[1])


def _real_weight(weight: torch.Tensor) -> torch.Tensor:
    copied = (
        torch.zeros(weight.shape, dtype=weight.dtype) if weight.is_meta else weight.detach().cpu().clone()
    )
    return nn.Parameter(copied, weight.requires_grad) if isinstance(weight, nn.Parameter) else copied


def _learn(
    run: Callable[..., Any],
    args: Any,
    kwargs: Any,
    sizes: Sizes,
    device: torch.device,
    parameters: Sequence[torch.Tensor] = (),
) -> tuple[Structure, list[Any]] | None:
    fakes = tensors_in((args, kwargs))
    hints = {name: sizes.hints[name] for name in sizes.names}
    if sum(_nbytes(fake, sizes) for fake in fakes) > LIMIT_BYTES:
        return None
    moved = [{**hints, name: hint + 1} for name, hint in hints.items()]
    runs = []
    try:
        with _disable_current_modes(), torch._C.DisableTorchFunction(), torch.random.fork_rng(devices=[]):
            for point, value in [(hints, 0), (hints, 1), *((other, 0) for other in moved)]:
                given = map_tensors(lambda hole, p=point, v=value: _real(hole, p, v, sizes), (args, kwargs))
                runs.append(Structure.of(run(*given[0], **given[1])))
    except Exception:
        return None
    if len({len(holes) for _, holes in runs}) > 1 or any(_shape(a) != _shape(b) for a, b in _pairs(runs)):
        return None
    wants_grad = torch.is_grad_enabled() and any(t.requires_grad for t in [*fakes, *parameters])
    made = [
        _fake([holes[i] for _, holes in (runs[0], *runs[2:])], fakes, sizes, hints, moved, device, wants_grad)
        for i in range(len(runs[0][1]))
    ]
    return runs[0][0], made


def _pairs(runs: list[tuple[Structure, list[Any]]]) -> list[tuple[Any, Any]]:
    """Pair the results of the two runs that differ in values only."""
    return list(zip(runs[0][1], runs[1][1], strict=True))


def _shape(hole: Any) -> Any:
    return tuple(hole.shape) if isinstance(hole, torch.Tensor) else hole


def _nbytes(fake: torch.Tensor, sizes: Sizes) -> int:
    count = fake.element_size()
    for size in fake.shape:
        count *= evaluate_size(sizes.printed(size), sizes.hints)
    return count


def _real(hole: Any, point: Mapping[str, int], value: int, sizes: Sizes) -> Any:
    """Return a real tensor like a fake one at these sizes; ints are 0 or 1, so that they can index anything."""
    if not isinstance(hole, torch.Tensor):
        return evaluate_size(sizes.printed(hole), point)
    shape = [evaluate_size(sizes.printed(size), point) for size in hole.shape]
    if hole.is_floating_point() or hole.is_complex():
        return torch.randn(shape, dtype=hole.dtype) if value else torch.zeros(shape, dtype=hole.dtype)
    return torch.full(shape, value, dtype=hole.dtype)


def _fake(
    seen: list[Any],
    fakes: list[torch.Tensor],
    sizes: Sizes,
    hints: Mapping[str, int],
    moved: list[dict[str, int]],
    device: torch.device,
    wants_grad: bool,
) -> Any:
    """Return a fake tensor with the sizes of the real ones, symbolic where they moved."""
    if not isinstance(seen[0], torch.Tensor):
        return seen[0]
    known = [size for fake in fakes for size in fake.shape if isinstance(size, torch.SymInt)]
    candidates = known + [a * b for a, b in combinations_with_replacement(known, 2)]
    points = [hints, *moved]
    shape = []
    for values in zip(*(tensor.shape for tensor in seen), strict=True):
        fitting = (
            c for c in candidates if all(_at(c, p, sizes) == v for p, v in zip(points, values, strict=True))
        )
        shape.append(values[0] if len(set(values)) == 1 else next(fitting))
    result = torch.empty(shape, dtype=seen[0].dtype, device=device)
    if wants_grad and (result.is_floating_point() or result.is_complex()):
        return result.requires_grad_().clone()
    return result


def _at(size: Any, point: Mapping[str, int], sizes: Sizes) -> int:
    return evaluate_size(sizes.printed(size), point)
