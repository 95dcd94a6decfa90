import copy
from dataclasses import replace

import pytest
import torch
from torch import nn

from autopipe.cost import cost_graph, hardware
from autopipe.cost.walk import Walk
from autopipe.ir.hardware import Device, Hardware, Link
from autopipe.ir.traced import Region
from tests.cost.by_hand import trace_by_hand

PEAK, BANDWIDTH, LAUNCH_MS = 1e9, 1e8, 0.25
ROUND = Hardware(
    "round",
    (Device("cpu", {"float32": PEAK}, BANDWIDTH, 2**30, LAUNCH_MS, "round numbers"),),
    (Link("wire", 1e9, 0.0, "round numbers"),),
)


def roof_ms(flops, nbytes):
    return 1e3 * max(flops / PEAK, nbytes / BANDWIDTH) + LAUNCH_MS


def priced(model, *inputs, on=ROUND, **more):
    traced = trace_by_hand(model, *inputs, **more)
    return traced, cost_graph(traced, model, on)


class Residual(nn.Module):
    def __init__(self, width=8):
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.up = nn.Linear(width, 4 * width)
        self.act = nn.ReLU(inplace=True)
        self.down = nn.Linear(4 * width, width)

    def forward(self, x):
        return x + self.down(self.act(self.up(self.norm(x))))


class Stack(nn.Module):
    def __init__(self, n_blocks=3):
        super().__init__()
        self.embed = nn.Embedding(11, 8)
        self.blocks = nn.ModuleList(Residual() for _ in range(n_blocks))
        self.head = nn.Linear(8, 11, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, ids):
        x = self.embed(ids)
        for block in self.blocks:
            x = block(x)
        return self.head(x)


IDS = torch.zeros(4, 6, dtype=torch.int64)


def test_a_linear_layer_costs_what_the_roofline_says():
    _, costs = priced(nn.Sequential(nn.Linear(20, 30)), torch.ones(4, 20, requires_grad=True))
    x, w, b, y = 4 * 20, 20 * 30, 30, 4 * 30
    product = 2 * 4 * 20 * 30
    (node,) = costs.nodes
    assert node.fwd_ms == pytest.approx(roof_ms(product, 4 * (x + w + b + y)))
    assert node.bwd_input_ms == pytest.approx(roof_ms(product, 4 * (y + w + x)))
    weight_ms = roof_ms(product, 4 * (y + x + w)) + roof_ms(0, 4 * (y + b))
    added_ms = roof_ms(0, 3 * 4 * w) + roof_ms(0, 3 * 4 * b)
    assert node.bwd_weight_ms == pytest.approx(weight_ms + added_ms)
    assert (node.out_bytes, node.grad_bytes, node.param_bytes) == (4 * y, 4 * y, 4 * (w + b))


def test_nodes_and_edges_follow_the_graph():
    _, costs = priced(Residual(), torch.ones(2, 8, requires_grad=True))
    assert list(costs.graph) == ["norm", "up", "act", "down", "add"]
    assert list(costs.edges()) == [
        (a, b, True) for a, b in zip(costs.graph, list(costs.graph)[1:], strict=False)
    ]
    assert costs.node("up").fqn == "up"


def test_blocks_that_repeat_cost_the_same():
    _, costs = priced(Stack(), IDS)
    for part in ("norm", "up", "act", "down"):
        blocks = [costs.node(f"blocks_{i}_{part}") for i in range(3)]
        assert len({replace(node, name="", fqn="") for node in blocks}) == 1


def test_meta_and_cpu_cost_the_same():
    model = Stack()
    traced = trace_by_hand(model, IDS)
    twin = copy.deepcopy(model).to("meta")
    on_meta = replace(traced, modules={name: twin.get_submodule(name) for name in traced.modules})
    assert cost_graph(on_meta, twin, ROUND) == cost_graph(traced, model, ROUND)


def test_a_parameter_that_two_nodes_read_is_tied():
    _, costs = priced(Stack(), IDS)
    (tied,) = costs.tied
    assert (tied.name, tied.nbytes, tied.nodes) == ("embed.weight", 11 * 8 * 4, ("embed", "head"))
    assert costs.node("embed").param_bytes == costs.node("head").param_bytes == tied.nbytes


def test_the_model_stays_as_it_was():
    model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.Dropout(0.5))
    calls = []
    model[0].register_forward_hook(lambda *_: calls.append(1))
    traced = trace_by_hand(model, torch.ones(4, 3))
    calls.clear()
    before = copy.deepcopy(model.state_dict())
    versions = [tensor._version for tensor in model.state_dict().values()]
    random_state = torch.get_rng_state()
    cost_graph(traced, model, ROUND)
    assert torch.equal(torch.get_rng_state(), random_state)
    assert calls == []
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert [tensor._version for tensor in model.state_dict().values()] == versions
    assert all(parameter.grad is None for parameter in model.parameters())


class Outputs(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(4, 4)
        self.head = nn.Linear(4, 2)

    def forward(self, x):
        out, _ = self.lstm(x)
        return self.head(out)


def test_outputs_of_one_node_stay_with_it():
    _, costs = priced(Outputs(), torch.ones(3, 2, 4))
    assert costs.together == (("lstm", "getitem", "getitem_1"),)
    assert costs.node("lstm").out_bytes == 0
    assert costs.node("getitem").out_bytes == 3 * 2 * 4 * 4
    assert costs.node("getitem").compute_ms == 0


def test_groups_and_order_of_the_capture_are_kept():
    traced, _ = priced(Residual(), torch.ones(2, 8))
    more = replace(traced, together=(("up", "act"), ("act", "down")), order=(("norm", "act"), ("up", "act")))
    costs = cost_graph(more, Residual(), ROUND)
    assert costs.together == (("up", "act", "down"),)
    assert ("norm", "act", False) in list(costs.edges())
    assert ("up", "act", True) in list(costs.edges())


class Masked(nn.Module):
    def forward(self, x, ids):
        mask = (ids > 0).to(torch.float32)
        doubled = (x * 2).transpose(0, 1).to(torch.bfloat16)
        return doubled, mask, nn.functional.dropout(mask, 0.5), mask @ mask


def test_what_brings_no_gradient_back_and_has_no_effects_is_recomputable():
    big = torch.ones(200, 200, requires_grad=True)
    traced, _ = priced(Masked(), big, torch.ones(200, 200, dtype=torch.int64))
    info = {**traced.info, "dropout": replace(traced.info["dropout"], is_random=True)}
    costs = cost_graph(replace(traced, info=info), Masked(), ROUND)
    found = {node.name: node.recomputable for node in costs.nodes}
    assert found == {
        "gt": True,
        "to": True,
        "mul": False,
        "transpose": False,
        "to_1": False,
        "dropout": False,
        "matmul": True,
    }


def test_integers_bring_no_gradient_back():
    _, costs = priced(Masked(), torch.ones(4, 4, requires_grad=True), torch.ones(4, 4, dtype=torch.int64))
    assert costs.node("gt").grad_bytes == costs.node("to").grad_bytes == 0
    assert costs.node("to").out_bytes == 4 * 4 * 4
    assert costs.node("mul").grad_bytes == costs.node("mul").out_bytes


class DataDependent(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(8, 8)

    def forward(self, x):
        return self.inner(x) if x.sum() > 0 else x


def test_a_module_that_needs_data_is_estimated():
    model = nn.Sequential(DataDependent(), nn.Linear(8, 8))
    _, costs = priced(model, torch.ones(2, 3, 8), opaque=("0",))
    estimated, exact = costs.nodes
    assert estimated.name == "_0"
    product = 2 * (2 * 3) * 8 * 8
    moved = 4 * (2 * 48 + 64 + 8)
    assert estimated.fwd_ms == pytest.approx(roof_ms(product, moved)) == pytest.approx(exact.fwd_ms)
    assert estimated.bwd_weight_ms > 0


class Branching(nn.Module):
    """Looks at its values, so that it runs on no fake tensor."""

    def __init__(self, *, looks=True):
        super().__init__()
        self.table = nn.Embedding(1000, 8)
        self.up, self.down = nn.Linear(8, 32), nn.Linear(32, 8)
        self.looks = looks

    def forward(self, ids):
        x = self.table(ids)
        if self.looks and x.sum().isnan():
            x = x * 2
        return self.down(self.up(x).relu())


def test_what_is_estimated_is_near_what_the_same_module_costs_without_a_branch():
    ids = torch.arange(40).reshape(4, 10)
    found = []
    for looks in (True, False):
        model = nn.Sequential(Branching(looks=looks), nn.Linear(8, 8))
        traced, costs = priced(model, ids, opaque=("0",))
        prices = Walk(traced, model, traced.sizes, fused_attention=False).run()["_0"].count
        flops = [sum(o.flops for o in part) for part in (prices.forward, prices.bwd_input, prices.bwd_weight)]
        found.append((prices.forward[0].name, flops[0], flops[1] + flops[2], costs.node("_0").saved_bytes))
    estimated, exact = found
    assert (estimated[0], exact[0]) == ("estimate", "aten.embedding")
    assert estimated[1:3] == exact[1:3]
    assert 0.9 * exact[3] <= estimated[3] <= 1.1 * exact[3]


def test_sizes_may_differ_from_the_example():
    class Doubling(nn.Module):
        def forward(self, x):
            return x + x

    traced = trace_by_hand(Doubling(), torch.ones(2, 5))
    info = {
        name: replace(i, spec=replace(i.spec, shape=("B", 5))) for name, i in traced.info.items() if i.spec
    }
    symbolic = replace(traced, info=info, sizes={"B": 2})
    small = cost_graph(symbolic, nn.Module(), ROUND)
    large = cost_graph(symbolic, nn.Module(), ROUND, sizes={"B": 40})
    assert (small.nodes[0].out_bytes, large.nodes[0].out_bytes) == (2 * 5 * 4, 40 * 5 * 4)
    assert large.nodes[0].fwd_ms == pytest.approx(roof_ms(0, 3 * 40 * 5 * 4))


def test_regions_without_gradients_have_no_backward():
    traced = trace_by_hand(Residual(), torch.ones(2, 8, requires_grad=True))
    info = {name: replace(i, region=Region(grad_enabled=False)) for name, i in traced.info.items()}
    costs = cost_graph(replace(traced, info=info), Residual(), ROUND)
    assert all(node.bwd_ms == node.saved_bytes == 0 for node in costs.nodes)


def test_a_faster_machine_is_faster_at_every_node():
    traced, slow = priced(Stack(), IDS, on=hardware("a100"))
    fast = cost_graph(traced, Stack(), hardware("h200"))
    assert all(a.compute_ms >= b.compute_ms for a, b in zip(slow.nodes, fast.nodes, strict=True))
    assert sum(n.compute_ms for n in slow.nodes) > sum(n.compute_ms for n in fast.nodes)
