"""Runs a model plain and cut into stages, and compares everything that can be seen."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from autopipe.ir.structure import Structure, map_tensors
from autopipe.ir.traced import TracedModel
from autopipe.rewrite import rewrite
from autopipe.trace import capture
from tests.plain_training import assert_bitwise, assert_close
from tests.rewrite.cutting import evenly, run


@dataclass(frozen=True)
class Seen:
    """What a forward and backward leave behind."""

    structure: Structure
    outputs: list[torch.Tensor]
    grads: dict[str, torch.Tensor | None]
    buffers: dict[str, torch.Tensor]
    argument_grads: list[torch.Tensor]
    random_state: torch.Tensor


def assert_agrees(
    model: nn.Module,
    args: tuple[Any, ...] = (),
    kwargs: dict[str, Any] | None = None,
    *,
    n_stages: Sequence[int] = (1, 3),
    exact: bool = True,
    traced: TracedModel | None = None,
    opaque: Callable[[str], bool] = lambda _fqn: False,
) -> TracedModel:
    """Assert that the stages give outputs, gradients, buffers and random numbers of the model.

    Returns:
        The capture, for more questions.
    """
    kwargs = kwargs or {}
    traced = traced or capture(model, args, kwargs, opaque=opaque)
    expected = observe(model, model, args, kwargs)
    for n in n_stages:
        staged = rewrite(traced, model, evenly(traced, n), n)
        found = observe(lambda *a, s=staged, **k: run(s, *a, **k), model, args, kwargs)
        compare(found, expected, exact=exact)
    return traced


def observe(
    call: Callable[..., Any], model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Seen:
    """Run forward and backward from a fixed seed, and put buffers back."""
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    model.zero_grad(set_to_none=True)
    args, kwargs = map_tensors(_fresh, (args, kwargs))
    _, arguments = Structure.of((args, kwargs))
    torch.manual_seed(7)
    out = call(*args, **kwargs)
    structure, outputs = Structure.of(out)
    roots = [_scalar(output, i) for i, output in enumerate(outputs) if output.requires_grad]
    if roots:
        torch.stack(roots).sum().backward()
    seen = Seen(
        structure,
        [output.detach().clone() for output in outputs],
        {name: parameter.grad for name, parameter in model.named_parameters()},
        {name: buffer.clone() for name, buffer in model.named_buffers()},
        [value.grad for value in arguments if value.grad is not None],
        torch.get_rng_state(),
    )
    with torch.no_grad():
        for name, buffer in model.named_buffers():
            buffer.copy_(buffers[name])
    return seen


def _fresh(value: torch.Tensor) -> torch.Tensor:
    return value.detach().clone().requires_grad_(value.requires_grad)


def _scalar(output: torch.Tensor, index: int) -> torch.Tensor:
    flat = torch.view_as_real(output) if output.is_complex() else output
    weights = torch.linspace(-1, 1, flat.numel(), dtype=flat.dtype).reshape(flat.shape)
    return (flat * (weights + index)).sum().float()


def compare(found: Seen, expected: Seen, *, exact: bool = True) -> None:
    """Compare bitwise, or as closely as sums in another order allow (``assert_close``)."""
    assert found.structure == expected.structure, (found.structure, expected.structure)
    assert [n for n, g in found.grads.items() if g is None] == [
        n for n, g in expected.grads.items() if g is None
    ]
    same = assert_bitwise if exact else assert_close
    same(_numbers(found), _numbers(expected))
    assert torch.equal(found.random_state, expected.random_state), "the random stream moved differently"


def _numbers(seen: Seen) -> dict[str, Any]:
    return {
        "outputs": seen.outputs,
        "grads": seen.grads,
        "buffers": seen.buffers,
        "argument_grads": seen.argument_grads,
    }


def calls(traced: TracedModel) -> list[str]:
    """What each node calls, in program order: FQNs and function names."""
    return [
        str(node.target) if node.op == "call_module" else getattr(node.target, "__name__", str(node.target))
        for node in traced.compute_nodes()
    ]


def opaque_modules(traced: TracedModel) -> dict[str, str]:
    """The modules with children that are one node, and why."""
    return {info.fqn: info.opaque_because for info in traced.info.values() if info.opaque_because}
