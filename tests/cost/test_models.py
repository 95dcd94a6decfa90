"""The models that people split, captured: what their cost graphs say against what really happens."""

import copy

import pytest
import torch

from autopipe.cost import cost_graph, hardware, measure
from autopipe.cost.walk import Walk
from autopipe.trace import capture
from models import NAMES
from tests.cost.kept import bytes_kept_by
from tests.shallow import load

CPU = hardware("cpu")


@pytest.fixture(params=NAMES, scope="module")
def captured(request):
    """A model, its arguments, and its capture for these."""
    file = load(request.param)
    model = file.build()
    example = file.example(5)
    return model, example, capture(model, *example)


def test_the_sum_of_saved_bytes_is_what_autograd_keeps(captured):
    model, (args, kwargs), traced = captured
    saved_bytes = sum(node.saved_bytes for node in cost_graph(traced, model, CPU).nodes)
    assert saved_bytes == pytest.approx(bytes_kept_by(model, *args, **kwargs), rel=1e-3)


@pytest.mark.parametrize("batch", [2, 4, 7])
def test_an_lstm_keeps_what_autograd_keeps_at_every_batch(batch):
    file = load("lstm")
    model, (args, kwargs) = file.build(), file.example(batch)
    saved_bytes = sum(node.saved_bytes for node in cost_graph(capture(model, args, kwargs), model, CPU).nodes)
    assert saved_bytes == bytes_kept_by(model, *args, **kwargs)


def test_every_node_runs_on_fake_tensors_and_agrees_with_the_capture(captured):
    model, _, traced = captured
    for name, price in Walk(traced, model, traced.sizes, fused_attention=False).run().items():
        assert all(operation.name != "estimate" for operation in price.count.forward), name
        spec = traced.info[name].spec
        if spec is not None:
            (made,) = price.count.made
            assert (made.shape, made.requires_grad) == (
                spec.concrete_shape(traced.sizes),
                spec.requires_grad,
            ), name


def test_every_parameter_is_counted_once(captured):
    model, _, traced = captured
    costs = cost_graph(traced, model, CPU)
    counted = sum(node.param_bytes for node in costs.nodes)
    counted -= sum(tied.nbytes * (len(tied.nodes) - 1) for tied in costs.tied)
    assert counted == sum(p.numel() * p.element_size() for p in model.parameters())


def test_a_meta_twin_costs_the_same(captured):
    model, _, traced = captured
    twin = copy.deepcopy(model).to("meta")
    modules = {name: twin.get_submodule(name) for name in traced.modules}
    meta = type(traced)(**{name: getattr(traced, name) for name in traced.__slots__} | {"modules": modules})
    assert cost_graph(meta, twin, CPU) == cost_graph(traced, model, CPU)


def test_measuring_leaves_the_model_alone(captured):
    model, (args, kwargs), traced = captured
    before, random_state = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    costs = measure(traced, model, (args, kwargs), CPU, n_runs=1)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert torch.equal(torch.get_rng_state(), random_state)
    assert [node.name for node in costs.nodes] == [node.name for node in cost_graph(traced, model, CPU).nodes]
