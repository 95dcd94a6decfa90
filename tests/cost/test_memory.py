import pytest
import torch
from torch import nn

from autopipe.cost import cost_graph, hardware, memory_of, node_memory
from autopipe.errors import ArgumentError
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
