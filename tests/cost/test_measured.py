import copy
import itertools

import pytest
import torch
from torch import nn

from autopipe.cost import cost_graph, hardware, measure
from autopipe.errors import ArgumentError
from tests.cost.by_hand import trace_by_hand

CPU = hardware("cpu")


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.norm, self.b = nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 4)
        self.register_buffer("steps", torch.zeros(1))

    def forward(self, x):
        self.steps.add_(1)
        left, right = torch.relu_(self.norm(self.a(x))).chunk(2, dim=-1)
        return self.b(nn.functional.dropout(torch.cat((right, left), dim=-1), 0.5))


def ticking():
    """A clock that shows one second more each time it is read."""
    seconds = itertools.count()
    return lambda: float(next(seconds))


@pytest.fixture
def net():
    model = Net()
    return trace_by_hand(model, torch.ones(3, 4)), model


def test_each_pass_is_read_off_the_clock(net):
    traced, model = net
    costs = measure(traced, model, ((torch.ones(3, 4),), {}), CPU, n_runs=3, clock=ticking())
    node = costs.node("b")
    assert (node.fwd_ms, node.bwd_input_ms, node.bwd_weight_ms) == (
        1000,
        1000,
        0,
    )  # both gradients took a tick
    first = costs.node("a")
    assert (first.fwd_ms, first.bwd_input_ms, first.bwd_weight_ms) == (
        1000,
        0,
        1000,
    )  # x asks for no gradient
    assert costs.node("cat").bwd_weight_ms == 0


def test_everything_but_the_times_is_that_of_the_roofline(net):
    traced, model = net
    roofline, measured = (
        cost_graph(traced, model, CPU),
        measure(traced, model, ((torch.ones(3, 4),), {}), CPU, n_runs=1),
    )
    for a, b in zip(roofline.nodes, measured.nodes, strict=True):
        assert (a.name, a.out_bytes, a.saved_bytes) == (b.name, b.out_bytes, b.saved_bytes)
        assert b.fwd_ms > 0
    assert (list(roofline.edges()), roofline.together) == (list(measured.edges()), measured.together)


def test_the_model_stays_as_it_was(net):
    traced, model = net
    calls = []
    model.a.register_forward_hook(lambda *_: calls.append(1))
    model.a.weight.grad = torch.ones(4, 4)
    before, random_state = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    x = torch.ones(3, 4)
    measure(traced, model, ((x,), {}), CPU, n_runs=2)
    assert calls == []
    assert torch.equal(x, torch.ones(3, 4))
    assert torch.equal(torch.get_rng_state(), random_state)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert torch.equal(model.a.weight.grad, torch.ones(4, 4))
    assert all(p.grad is None for name, p in model.named_parameters() if name != "a.weight")


def test_equal_nodes_are_timed_once():
    model = nn.Sequential(*(nn.Linear(4, 4) for _ in range(4)))
    traced = trace_by_hand(model, torch.ones(3, 4, requires_grad=True))
    seconds = itertools.count()
    measure(
        traced,
        model,
        ((torch.ones(3, 4, requires_grad=True),), {}),
        CPU,
        n_runs=1,
        clock=lambda: float(next(seconds)),
    )
    assert next(seconds) == 2 * 3 * 2  # two runs, three passes, start and end


def test_models_without_data_are_refused(net):
    traced, model = net
    with pytest.raises(ArgumentError, match="this one has no data"):
        measure(traced, copy.deepcopy(model).to("meta"), ((torch.ones(3, 4),), {}), CPU)


def test_inputs_that_do_not_fit_are_refused(net):
    traced, model = net
    with pytest.raises(ArgumentError, match="does not fit"):
        measure(traced, model, ((torch.ones(3, 5),), {}), CPU)
