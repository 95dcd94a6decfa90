from dataclasses import replace

import pytest
import torch
from torch import nn

from autopipe.cost import cost_graph, hardware, memory_of, node_memory
from autopipe.errors import ArgumentError
from autopipe.partition import solve
from autopipe.partition.objective import MemoryRule
from tests.cost.by_hand import trace_by_hand

CPU = hardware("cpu")


@pytest.fixture
def tied():
    model = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False), nn.Linear(4, 2))
    model[1].weight = model[0].weight
    model[2].bias.requires_grad_(False)
    traced = trace_by_hand(model, torch.ones(3, 4))
    return traced, model, cost_graph(traced, model, CPU)


def test_a_node_holds_parameters_gradients_and_adam(tied):
    memory = node_memory(*tied, CPU)["_2"]
    assert (memory.param_bytes, memory.grad_bytes, memory.optimizer_bytes) == (4 * 10, 4 * 8, 8 * 8)
    assert memory.saved_bytes == 0  # its input is charged to the node that made it


def test_a_stage_counts_a_tied_parameter_once(tied):
    both = memory_of(["_0", "_1"], *tied, CPU)
    assert (both.param_bytes, both.grad_bytes, both.optimizer_bytes) == (64, 64, 128)


def test_half_precision_parameters_have_states_by_element(tied):
    model = nn.Sequential(nn.Linear(4, 4, bias=False)).bfloat16()
    traced = trace_by_hand(model, torch.ones(3, 4, dtype=torch.bfloat16))
    memory = node_memory(traced, model, cost_graph(traced, model, CPU), CPU)["_0"]
    assert (memory.param_bytes, memory.grad_bytes, memory.optimizer_bytes) == (32, 32, 128)


def test_memory_grows_with_microbatches_in_flight(tied):
    memory = memory_of(["_0"], *tied, CPU)
    assert memory.total_bytes(3) - memory.total_bytes(1) == 2 * memory.saved_bytes > 0


def test_an_unknown_node_is_named(tied):
    with pytest.raises(ArgumentError, match="no node 'attic'"):
        memory_of(["attic"], *tied, CPU)


def mixed():
    """A frozen layer, a trained one, and one whose bias alone is frozen, all bfloat16."""
    model = nn.Sequential(
        nn.Linear(8, 8).bfloat16().requires_grad_(False),
        nn.Linear(8, 8).bfloat16(),
        nn.Linear(8, 4).bfloat16(),
    )
    model[2].bias.requires_grad_(False)
    return model, torch.ones(3, 8, dtype=torch.bfloat16)


def test_the_solver_counts_what_is_trained_by_element_and_frozen_parameters_once():
    model, x = mixed()
    traced = trace_by_hand(model, x)
    costs = cost_graph(traced, model, CPU)
    expected = node_memory(traced, model, costs, CPU)
    rule = MemoryRule()
    for name, memory in expected.items():
        assert rule.held_bytes(costs.node(name), CPU) == memory.total_bytes(0)
    assert [expected[f"_{i}"].total_bytes(0) for i in range(3)] == [
        2 * 72,
        2 * 72 + 2 * 72 + 8 * 72,
        2 * 36 + 2 * 32 + 8 * 32,
    ]
    stage = solve(costs, 1, hardware=CPU, in_flight=[0]).stages[0]
    assert stage.memory_bytes == sum(memory.total_bytes(0) for memory in expected.values())


def test_a_float32_copy_beside_bfloat16_parameters_is_four_bytes_more_an_element():
    model, x = mixed()
    traced = trace_by_hand(model, x)
    copied = replace(CPU, optimizer_bytes_per_param=12)
    costs = cost_graph(traced, model, copied)
    one, other = (solve(costs, 1, hardware=h, in_flight=[0]).stages[0].memory_bytes for h in (copied, CPU))
    assert one - other == 4 * (72 + 32)


def test_a_tied_parameter_counts_once_whatever_of_it_is_trained(tied):
    traced, model, _ = tied
    model[0].weight.requires_grad_(False)
    costs = cost_graph(traced, model, CPU)
    assert costs.tied[0].trained_bytes == 0
    stage = solve(costs, 1, hardware=CPU, in_flight=[0]).stages[0]
    assert stage.memory_bytes == memory_of(costs.graph, traced, model, costs, CPU).total_bytes(0)


def test_a_model_of_trained_float32_says_nothing_more_of_its_parameters():
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU())
    costs = cost_graph(trace_by_hand(model, torch.ones(3, 4)), model, CPU)
    assert all("n_trained" not in node for node in costs.to_json()["nodes"])


def test_a_graph_of_frozen_parameters_goes_to_json_and_back(tied):
    traced, model, _ = tied
    costs = cost_graph(traced, model.requires_grad_(False), CPU)
    assert costs.from_json(costs.to_json()) == costs
    assert costs.node("_2").n_trained == costs.from_json(costs.to_json()).node("_2").n_trained == 0


def test_a_model_without_parameters_holds_what_it_saves():
    model = nn.Sequential(nn.GELU(), nn.Softmax(-1))
    x = torch.ones(3, 4, requires_grad=True)
    traced = trace_by_hand(model, x)
    costs = cost_graph(traced, model, CPU)
    stage = solve(costs, 1, hardware=CPU, in_flight=[2]).stages[0]
    assert (stage.param_bytes, stage.memory_bytes) == (0, 2 * stage.saved_bytes)
    assert stage.saved_bytes == 2 * 4 * 3 * 4  # the argument, and what Softmax returned
