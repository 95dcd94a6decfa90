"""The cost graph of a captured model from a stopwatch: each distinct node runs on real tensors on its device.

Bytes are those of the roofline; only the times are measured. Stand-ins of the modules run, with the user's
parameters and copies of their buffers, so the model, its hooks, its gradients and the random state are as
before.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import fx, nn
from torch._subclasses.fake_tensor import FakeTensor

from autopipe.cost.counting import asking_grad, in_region
from autopipe.cost.fingerprint import Fingerprints
from autopipe.cost.phantom import Phantoms
from autopipe.cost.roofline import cost_graph
from autopipe.cost.walk import priced_nodes
from autopipe.errors import ArgumentError
from autopipe.ir.cost_graph import CostGraph
from autopipe.ir.hardware import Hardware
from autopipe.ir.structure import Structure, map_tensors, tensors_in
from autopipe.ir.traced import Region, TracedModel

Clock = Callable[[], float]


@dataclass(frozen=True, slots=True)
class Times:
    """Measured times of one node in ms."""

    fwd_ms: float
    bwd_input_ms: float = 0.0
    bwd_weight_ms: float = 0.0


def measure(
    traced: TracedModel,
    model: nn.Module,
    example: tuple[tuple[Any, ...], Mapping[str, Any]],
    hardware: Hardware,
    *,
    n_runs: int = 5,
    clock: Clock = time.perf_counter,
) -> CostGraph:
    """Price every node of a captured model by running it.

    Args:
        traced: The captured model.
        model: The model that was captured, with data.
        example: ``(args, kwargs)`` of one microbatch, with data.
        hardware: For the cost graph's bytes; its times are not used.
        n_runs: How often each distinct node is timed; the median counts.
        clock: Returns seconds.

    Returns:
        The cost graph with measured times: ``bwd_input_ms`` is the gradient of the inputs alone,
        ``bwd_weight_ms`` what that of the parameters adds.

    Raises:
        ArgumentError: If the model or the example has no data, or the example does not fit the graph.

    Complexity: ``n_runs + 1`` times forward and backward of the distinct nodes, one forward of the others.
    """
    args, kwargs = example
    inputs = Structure.of((args, dict(kwargs)))[1]
    holders = (*inputs, *model.parameters(), *model.buffers())
    if any(tensor.device.type == "meta" or isinstance(tensor, FakeTensor) for tensor in holders):
        raise ArgumentError(
            "cost='measured' runs the model, and this one has no data.",
            why="A parameter, a buffer or an argument is on the meta device or fake.",
            remedy="cost='roofline', which needs shapes alone",
        )
    sizes = traced.bind([tuple(tensor.shape) for tensor in inputs])
    if sizes is None:
        shapes = ", ".join(str(list(tensor.shape)) for tensor in inputs)
        raise ArgumentError("the example does not fit the captured graph.", where=f"shapes {shapes}")
    costs = cost_graph(traced, model, hardware, sizes=sizes)
    devices = range(torch.cuda.device_count()) if traced.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        times = _Stopwatch(traced, model, n_runs, clock).run(inputs, sizes)
    nodes = [
        replace(node, fwd_ms=t.fwd_ms, bwd_input_ms=t.bwd_input_ms, bwd_weight_ms=t.bwd_weight_ms)
        for node, t in ((node, times[node.name]) for node in costs.nodes)
    ]
    return CostGraph.build(nodes, costs.edges(), costs.together, costs.tied)


def _copy(tensor: torch.Tensor) -> torch.Tensor:
    """Share the memory of a parameter, which no forward writes; copy a buffer, which one may."""
    return tensor.detach() if isinstance(tensor, nn.Parameter) else tensor.detach().clone()


class _Stopwatch:
    """Runs a graph node by node and times each distinct one."""

    def __init__(self, traced: TracedModel, model: nn.Module, n_runs: int, clock: Clock) -> None:
        self._traced, self._n_runs, self._clock = traced, n_runs, clock
        self._phantoms = Phantoms(_copy)
        self._keys = Fingerprints()
        self._times: dict[Hashable, Times] = {}
        self._attributes: dict[str, torch.Tensor] = dict(traced.constants)
        self._attributes |= dict(model.named_buffers(remove_duplicate=False))
        self._attributes |= dict(model.named_parameters(remove_duplicate=False))

    def run(self, inputs: Sequence[torch.Tensor], sizes: Mapping[str, int]) -> dict[str, Times]:
        """Time every priced node; a value is let go after its last reader."""
        given = {leaf.name: tensor for leaf, tensor in zip(self._traced.inputs, inputs, strict=True)}
        priced = set(priced_nodes(self._traced))
        values: dict[fx.Node, Any] = {}
        times: dict[str, Times] = {}
        for node in self._traced.graph.nodes:
            if node.op == "placeholder":
                values[node] = given[node.name] if node.name in given else sizes[str(node.target)]
            elif node.op == "get_attr":
                values[node] = self._phantoms.tensor(self._attributes[str(node.target)])
            elif node.op != "output":
                call = tuple(fx.map_arg(part, values.__getitem__) for part in (node.args, node.kwargs))
                if node in priced:
                    times[node.name] = self._time(node, call)
                values[node] = self._value(node, call)
            for source in node.all_input_nodes:
                if all(user in values for user in source.users):
                    values[source] = None
        return times

    def _target(self, node: fx.Node) -> Callable[..., Any]:
        if node.op != "call_module":
            assert callable(node.target)
            return node.target
        module = self._traced.modules[str(node.target)]
        return module if isinstance(module, torch.jit.ScriptModule) else self._phantoms.module(module)

    def _value(self, node: fx.Node, call: Any) -> Any:
        """Run the node on the values themselves, so that what it writes in place is seen by later readers."""
        args, kwargs = call
        info = self._traced.info.get(node.name)
        with in_region(replace(info.region if info else Region(), grad_enabled=False)):
            out = self._target(node)(*args, **kwargs)
        if not tensors_in(out):
            return out
        out = map_tensors(lambda t: t.detach() if isinstance(t, torch.Tensor) else t, out)
        if info is not None and info.spec is not None:
            out.requires_grad_(info.spec.requires_grad)
        return out

    def _time(self, node: fx.Node, call: Any) -> Times:
        """Return the median times of a node, measured for the first of equal ones."""
        region = self._traced.info[node.name].region
        target = self._target(node)
        key, _ = self._keys.call(target, call, region)
        if key not in self._times:
            runs = [self._run_once(target, call, region) for _ in range(self._n_runs + 1)][1:]
            fwd, bwd_input, bwd_both = (statistics.median(column) * 1e3 for column in zip(*runs, strict=True))
            self._times[key] = Times(fwd, bwd_input, max(0.0, bwd_both - bwd_input))
        return self._times[key]

    def _run_once(self, target: Callable[..., Any], call: Any, region: Region) -> tuple[float, float, float]:
        """Return the seconds of the forward, of the gradient of the inputs, of all gradients."""
        leaves: dict[int, torch.Tensor] = {}

        def fresh(tensor: Any) -> Any:
            if not isinstance(tensor, torch.Tensor) or isinstance(tensor, nn.Parameter):
                return tensor
            leaf = leaves.setdefault(id(tensor), tensor.detach().clone().requires_grad_(tensor.requires_grad))
            return leaf.clone() if leaf.requires_grad else leaf

        args, kwargs = map_tensors(fresh, call)
        weights = [tensor for tensor in tensors_in(call) if isinstance(tensor, nn.Parameter)]
        weights += list(target.parameters()) if isinstance(target, nn.Module) else []
        with in_region(region):
            forward_s, out = self._timed(lambda: target(*args, **kwargs))
        roots = [tensor for tensor in tensors_in(out) if tensor.requires_grad]
        grads = [torch.ones_like(root) for root in roots]

        def seconds(wanted: list[torch.Tensor]) -> float:
            if not roots or not wanted:
                return 0.0
            return self._timed(
                lambda: torch.autograd.grad(roots, wanted, grads, retain_graph=True, allow_unused=True)
            )[0]

        inputs, trained = asking_grad(leaves.values()), asking_grad(weights)
        input_s = seconds(inputs)
        return forward_s, input_s, seconds([*inputs, *trained]) if trained else input_s

    def _timed(self, run: Callable[[], Any]) -> tuple[float, Any]:
        self._wait()
        start = self._clock()
        out = run()
        self._wait()
        return self._clock() - start, out

    def _wait(self) -> None:
        if self._traced.device.type != "cpu":
            torch.accelerator.synchronize()
