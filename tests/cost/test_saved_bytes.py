"""What autograd keeps after a real forward is the truth for the sum of saved_bytes."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from autopipe.cost import cost_graph, hardware
from autopipe.trace import capture
from tests.cost.by_hand import trace_by_hand
from tests.cost.kept import bytes_kept_by


def saved_by_node(model, *inputs, **more):
    costs = cost_graph(trace_by_hand(model, *inputs, **more), model, hardware("cpu"))
    return {node.name: node.saved_bytes for node in costs.nodes}


class Applied(nn.Module):
    def __init__(self, function, *modules):
        super().__init__()
        self.function, self.parts = function, nn.ModuleList(modules)

    def forward(self, x):
        return self.function(x, *self.parts)


def perceptron(x, a, b):
    return b(F.gelu(a(x)))


def in_place(x, a, b):
    return b(torch.relu_(a(x)).transpose(0, 1).reshape(4, 8))


def fan_out(x, a, b):
    h = a(x)
    return b(h) * h + torch.sin(h)


def chunks(x, a, b):
    left, right = a(x).chunk(2, dim=-1)
    return torch.sigmoid(left) * right


def attention(x, a, b):
    q = a(x).unflatten(-1, (2, 4)).transpose(0, 1)
    return F.scaled_dot_product_attention(q, q, q, is_causal=True).exp()


def norms(x, a, b):
    return F.softmax(F.layer_norm(a(x), (8,)), dim=-1).tanh()


def expanded(x, a, b):
    return a(x) * x.mean(dim=-1, keepdim=True).expand(4, 8)


def repeated_heads(x, a, b):
    heads = a(x).reshape(4, 2, 1, 4).expand(4, 2, 3, 4).reshape(4, 6, 4)  # a copy: 6 heads of 2
    return heads @ heads.transpose(1, 2)


FUNCTIONS = [perceptron, in_place, fan_out, chunks, attention, norms, expanded, repeated_heads]


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("asks", [False, True])
def test_saved_bytes_are_those_that_autograd_keeps(function, asks):
    model = Applied(function, nn.Linear(8, 8), nn.Linear(8, 8))
    x = torch.randn(4, 8, requires_grad=asks)
    assert sum(saved_by_node(model, x).values()) == bytes_kept_by(model, x)


@pytest.mark.parametrize("asks", [False, True])
def test_modules_keep_what_autograd_keeps(asks):
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(inplace=True), nn.MaxPool2d(2), nn.Dropout(0.5)
    )
    x = torch.randn(2, 3, 10, 10, requires_grad=asks)
    assert sum(saved_by_node(model, x).values()) == bytes_kept_by(model, x)


@pytest.mark.parametrize("n_samples", [1, 2, 4, 5, 9])
@pytest.mark.parametrize(("n_steps", "features", "hidden"), [(24, 64, 64), (7, 16, 33), (3, 70, 20)])
def test_lstm_keeps_the_workspace_of_its_kernel(n_samples, n_steps, features, hidden):
    model = nn.Sequential(nn.LSTM(features, hidden))
    x = torch.randn(n_steps, n_samples, features)
    assert sum(saved_by_node(model, x).values()) == bytes_kept_by(model, x)


def test_memory_that_a_view_wrote_a_gradient_into_is_kept_by_its_readers():
    def joined(x, a):
        both = x.new_empty(4, 16)
        both[:, :8] = a(x)
        both[:, 8:] = x
        return both * both.sin()

    model, x = Applied(joined, nn.Linear(8, 8)), torch.randn(4, 8)
    costs = cost_graph(capture(model, (x,)), model, hardware("cpu"))
    assert sum(node.saved_bytes for node in costs.nodes) == bytes_kept_by(model, x)


def test_a_storage_is_charged_to_the_node_that_made_it():
    model = Applied(fan_out, nn.Linear(8, 8), nn.Linear(8, 8))
    x = torch.randn(4, 8)
    one = 4 * 8 * 4
    assert saved_by_node(model, x) == {"parts_0": 2 * one, "parts_1": one, "mul": 0, "sin": 0, "add": 0}


def test_an_argument_is_charged_to_the_first_node_that_keeps_it():
    model = Applied(lambda x, a, b: a(x) + b(x), nn.Linear(8, 8), nn.Linear(8, 8))
    assert saved_by_node(model, torch.randn(4, 8)) == {"parts_0": 4 * 8 * 4, "parts_1": 0, "add": 0}


def test_inference_keeps_nothing():
    model = Applied(perceptron, nn.Linear(8, 8), nn.Linear(8, 8)).requires_grad_(False)
    assert set(saved_by_node(model, torch.randn(4, 8)).values()) == {0}
