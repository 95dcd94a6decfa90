"""Every value of a run, by node: what a graph computed, and the gradients that came back."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import fx, nn
from torch.utils import _pytree as pytree

from autopipe.ir.stages import StagedModel
from autopipe.ir.traced import TracedModel


@dataclass(slots=True)
class Recorded:
    """The values of one run.

    Args:
        values: Node -> the tensors that it made, in every microbatch, copied when it had made them.
        gradients: Node -> the gradient of its one tensor, summed over the microbatches.
    """

    values: dict[str, list[torch.Tensor]] = field(default_factory=dict)
    gradients: dict[str, torch.Tensor] = field(default_factory=dict)

    def keep(self, name: str, value: Any) -> None:
        """Copy what a node made, and wait for its gradient."""
        tensors = [leaf for leaf in pytree.tree_leaves(value) if isinstance(leaf, torch.Tensor)]
        self.values.setdefault(name, []).extend(tensor.detach().clone() for tensor in tensors)
        if isinstance(value, torch.Tensor) and value.requires_grad:
            value.register_hook(partial(self._keep_gradient, name))  # type: ignore[no-untyped-call]

    def _keep_gradient(self, name: str, gradient: torch.Tensor | None) -> None:
        if gradient is None:  # what read the value has no gradient for it
            return
        before = self.gradients.get(name)
        self.gradients[name] = (
            gradient.detach().clone() if before is None else _added(before, gradient.detach())
        )


class _Interpreter(fx.Interpreter):
    """Runs a stage node by node."""

    def __init__(self, module: fx.GraphModule, into: Recorded) -> None:
        super().__init__(module)
        self._into = into

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        if n.op in ("call_module", "call_function", "call_method"):
            self._into.keep(n.name, value)
        return value


@contextmanager
def recorded_stages(staged: StagedModel) -> Iterator[Recorded]:
    """Record every node of every stage that runs inside, whoever calls it.

    Args:
        staged: The stages; they run node by node meanwhile.
    """
    found = Recorded()
    with ExitStack() as stack:
        for stage in staged.stages:
            stage.module.__dict__["forward"] = _Interpreter(stage.module, found).run
            stack.callback(stage.module.__dict__.pop, "forward")
        yield found


@contextmanager
def recorded_leaves(traced: TracedModel) -> Iterator[Recorded]:
    """Record what the leaves of a plain model return, under the names of their nodes in its capture.

    Args:
        traced: The capture; the nth call of a module is its nth node.
    """
    found = Recorded()
    names: dict[nn.Module, list[str]] = {}
    for node in traced.graph.nodes:
        if node.op == "call_module":
            names.setdefault(traced.modules[str(node.target)], []).append(node.name)
    with ExitStack() as stack:
        for module, nodes in names.items():
            stack.enter_context(module.register_forward_hook(_recorder(found, nodes)))
        yield found


def _added(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """Return the sum; of microbatches of two sizes each row is added to the row of its number."""
    small, large = sorted((one, other), key=torch.Tensor.numel)
    total = large.clone()
    total[tuple(map(slice, small.shape))] += small
    return total


def _recorder(found: Recorded, names: Sequence[str]) -> Callable[[nn.Module, Any, Any], None]:
    left = iter(names)

    def hook(_module: nn.Module, _args: Any, output: Any) -> None:
        name = next(left, None)
        if name is not None:
            found.keep(name, output)

    return hook
