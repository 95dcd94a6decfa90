"""A split that equals its model gets a certificate; what differs is named."""

from __future__ import annotations

import copy
import itertools
import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import fx, nn

import autopipe
from autopipe import ArgumentError, VerifyError
from autopipe.pipeline import Pipeline
from tests.shallow import load

FACTOR: dict[Any, float] = {"value": 1.0} | dict.fromkeys(range(100), 0.0)  # too large for a set of flags
COUNT = itertools.count()


class Net(nn.Module):
    """Three linear layers, batch norm, dropout, and a factor that lives outside."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Linear(4, 8), nn.BatchNorm1d(8)
        self.middle, self.drop, self.last = nn.Linear(8, 8), nn.Dropout(0.2), nn.Linear(8, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.drop(self.norm(self.first(x)))
        z = self.middle(torch.relu(y)) * FACTOR["value"]
        return self.last(z + y)


def net(**options: Any) -> Pipeline:
    torch.manual_seed(0)
    pins = {"first": 0, "norm": 0, "middle": 1, "last": -1}
    return autopipe.split(Net(), 2, (torch.randn(6, 4),), pin=pins, **options)


def changed_graph(pipe: Pipeline, stage: int, change: Callable[[fx.Graph], None]) -> None:
    """Tamper with the stage of the first signature."""
    module = pipe[stage].module
    change(module.graph)
    module.recompile()


def node_of(graph: fx.Graph, part: str) -> fx.Node:
    return next(node for node in graph.nodes if part in node.name)


# -- equal


def test_certificate_says_what_was_compared_with_what() -> None:
    report = net().verify()
    assert report.is_equal
    one, several = ("one graph = model", "stages = one graph"), ("1f1b = one by one", "gpipe = one by one")
    runs = [
        ("example", one),
        ("perturbed", one),
        ("3 microbatches", several),
        ("3 of two sizes", several[:1]),
    ]
    assert [(run.flags, run.numbers, run.pair) for run in report.passed] == [
        (flags, numbers, pair) for flags in ("train", "eval") for numbers, pairs in runs for pair in pairs
    ]
    assert all(run.counts == {"output": 1, "loss": 1, "gradient": 8, "buffer": 3} for run in report.passed)
    lines = str(report).splitlines()
    assert lines[0] == "Net in 2 stages gives the numbers of the model."
    assert lines[1] == (
        "  train     example        one graph = model   1 output, 1 loss, 8 gradients, 3 buffers: bitwise"
    )
    report.raise_if_different()


@pytest.mark.parametrize("name", ["tied_lm", "mixture_of_experts", "recommender", "lstm"])
def test_models_with_random_operations_are_equal_in_both_modes(name: str) -> None:
    torch.manual_seed(0)
    file = load(name)
    report = autopipe.split(file.build(), 3, *file.example(2)).verify()
    assert report.is_equal, str(report)
    assert all(not run.errors for run in report.passed if run.pair == "one graph = model")
    assert all(error < 1e-5 for run in report.passed for error in run.errors.values())


def test_split_verifies_when_asked() -> None:
    assert len(net(verify=True)) == 2


def test_frozen_model_is_compared_without_gradients() -> None:
    model = Net().requires_grad_(False)
    report = autopipe.split(model, 2, (torch.randn(6, 4),)).verify()
    assert report.is_equal
    assert report.passed[0].counts == {"output": 1, "loss": 1, "buffer": 3}


def test_gradients_of_inputs_are_compared() -> None:
    x = torch.randn(6, 4, requires_grad=True)
    report = autopipe.split(Net(), 2, (x,)).verify()
    assert report.is_equal, str(report)
    assert report.passed[0].counts["input gradient"] == 1
    assert x.grad is None


def test_integers_stay_where_the_model_needs_their_order() -> None:
    class Bags(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bag, self.head = nn.EmbeddingBag(9, 4), nn.Linear(4, 2)

        def forward(self, ids: torch.Tensor, offsets: torch.Tensor) -> torch.Tensor:
            return self.head(self.bag(ids, offsets))

    example = (torch.arange(6), torch.tensor([0, 2, 5]))
    assert autopipe.split(Bags(), 2, example).verify().is_equal


# -- as it was found


def test_everything_is_left_as_it_was_found() -> None:
    pipe = net()
    model = pipe.model
    pipe(torch.randn(6, 4)).sum().backward()
    model.norm.eval()
    before = [parameter.grad for parameter in model.parameters()]
    values = [grad.clone() for grad in before if grad is not None]
    buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
    streams = torch.get_rng_state(), random.getstate()
    example = [tensor.clone() for tensor in pipe._example[0]]
    report = pipe.verify()
    assert report.is_equal
    assert {run.flags for run in report.passed} == {"as found", "train", "eval"}
    assert all(parameter.grad is old for parameter, old in zip(model.parameters(), before, strict=True))
    assert all(g is not None and g.equal(v) for g, v in zip(before, values, strict=True))
    assert all(buffer.equal(value) for buffer, value in buffers)
    assert [id(buffer) for buffer in model.buffers()] == [id(buffer) for buffer, _ in buffers]
    assert [module.training for module in model.modules()] == [True, True, False, True, True, True]
    assert torch.equal(torch.get_rng_state(), streams[0])
    assert random.getstate() == streams[1]
    assert all(now.equal(then) for now, then in zip(pipe._example[0], example, strict=True))


def test_gradients_are_compared_although_the_caller_turned_them_off() -> None:
    pipe = net()
    with torch.no_grad():
        assert pipe.verify().passed[0].counts["gradient"] == 8


# -- what differs is named


def test_tampered_node_is_named_with_stage_module_line_and_error() -> None:
    pipe = net()

    def halve(graph: fx.Graph) -> None:
        node = node_of(graph, "mul")
        node.args = (node.args[0], 0.5)

    changed_graph(pipe, 1, halve)
    report = pipe.verify()
    assert not report.is_equal
    finding = report.finding
    assert finding is not None
    assert (finding.flags, finding.numbers, finding.pair) == ("train", "example", "stages = one graph")
    assert finding.what == "mul is the first value that differs, by 5.0e-01 of its largest entry."
    assert finding.where.startswith("in stage 1, the model itself\nat ")
    assert finding.where.endswith('test_verify.py:34:  z = self.middle(torch.relu(y)) * FACTOR["value"]')
    assert "output: 1 differ, most of all output" in str(report)
    with pytest.raises(VerifyError) as raised:
        report.raise_if_different()
    assert raised.value.what == f"Net in 2 stages differs from the model: {finding.what}"
    assert raised.value.where == finding.where
    assert "in train on the example: stages = one graph" in raised.value.why
    assert raised.value.remedy


def test_other_parameter_object_is_named() -> None:
    pipe = net()
    pipe[1].module.add_module("last", copy.deepcopy(pipe.model.last))
    finding = pipe.verify().finding
    assert finding is not None
    assert finding.what.startswith("gradient last.weight differs, in shape, or by a value that is missing")
    assert finding.where.startswith("in stage 1, last, a Linear\nat ")


def test_other_buffer_object_is_named() -> None:
    pipe = net()
    other = copy.deepcopy(pipe.model.norm).requires_grad_(False)
    other._parameters = pipe.model.norm._parameters
    pipe[0].module.add_module("norm", other)
    finding = pipe.verify().finding
    assert finding is not None
    assert finding.what.startswith("buffer norm.running_mean differs")
    assert finding.where.startswith("in stage 0, norm, a BatchNorm1d\nat ")


def test_gradient_that_is_lost_on_the_way_back_is_named() -> None:
    pipe = net()

    def cut_off(graph: fx.Graph) -> None:
        relu = node_of(graph, "relu")
        with graph.inserting_before(relu):
            relu.args = (graph.call_function(torch.detach, relu.args),)

    changed_graph(pipe, 1, cut_off)
    finding = pipe.verify().finding
    assert finding is not None
    assert finding.what.startswith("the gradient of ")
    assert "is the first that differs on the way back" in finding.what


def test_stage_that_fails_is_named() -> None:
    pipe = net()

    def break_it(graph: fx.Graph) -> None:
        node = node_of(graph, "mul")
        node.args = (node.args[0], "a word")

    changed_graph(pipe, 1, break_it)
    finding = pipe.verify().finding
    assert finding is not None
    assert finding.what == "the stages fail where the model runs. stage 1 failed in 1F0."
    assert "test_verify.py:34" in finding.where


def test_capture_that_is_no_longer_the_model_is_named_by_its_first_leaf(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pipe = net()
    monkeypatch.setitem(FACTOR, "value", 3.0)
    finding = pipe.verify().finding
    assert finding is not None
    assert finding.pair == "one graph = model"
    assert finding.what.startswith("last is the first value that differs")


def test_model_that_differs_from_itself_proves_nothing() -> None:
    class Counts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.counter = nn.Linear(2, 2), Counter()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.counter(self.first(x))

    class Counter(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + next(COUNT)

    pipe = autopipe.split(Counts(), 2, (torch.ones(2, 2),), opaque=("counter",))
    finding = pipe.verify().finding
    assert finding is not None
    assert finding.what == "the model itself gives other numbers when it runs twice with one random seed."


def test_difference_that_needs_several_microbatches_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    class Average(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("mean", torch.ones(4))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.mean.data.mul_(0.9).add_(x.detach().mean(0))
            return x * self.mean

    def split() -> Pipeline:
        model = nn.Sequential(nn.Linear(4, 4), Average(), nn.Linear(4, 2))
        return autopipe.split(model, 2, (torch.randn(6, 4),), pin={"0": 0, "1": 0, "2": 1})

    assert split().verify().is_equal
    monkeypatch.setattr("autopipe.runtime.stage_worker.OldValues.copy", lambda kept: None)
    finding = split().verify().finding
    assert finding is not None
    assert (finding.numbers, finding.pair) == ("3 microbatches", "1f1b = one by one")
    assert finding.what.startswith("the gradient of _0 is the first that differs on the way back")


def test_model_without_a_batch_is_compared_with_one_microbatch() -> None:
    class Scalar(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.b(self.a(x.expand(4)))

    report = autopipe.split(Scalar(), 2, (torch.tensor(2.0),)).verify()
    assert report.is_equal
    assert len(report.passed) == 8
    assert str(report).endswith("  Several microbatches were not compared: no argument carries a batch.")


def test_difference_that_needs_microbatches_of_two_sizes_is_found() -> None:
    pipe = net()

    def by_the_example(graph: fx.Graph) -> None:
        node = node_of(graph, "middle")
        with graph.inserting_after(node):
            wrong = graph.call_function(_twice_unless_six_rows, (node,))
        node.replace_all_uses_with(wrong, delete_user_cb=lambda user: user is not wrong)

    changed_graph(pipe, 1, by_the_example)
    finding = pipe.verify().finding
    assert finding is not None
    assert (finding.flags, finding.numbers) == ("train", "3 of two sizes")


def _twice_unless_six_rows(x: torch.Tensor) -> torch.Tensor:
    return x if len(x) == 6 else 2 * x


@pytest.mark.parametrize("rows", [1, 2])
def test_microbatches_of_two_sizes_are_made_of_any_example(rows: int) -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 2))
    report = autopipe.split(model, 2, (torch.randn(rows, 4),)).verify()
    assert report.is_equal
    assert [run.numbers for run in report.passed].count("3 of two sizes") == 2


class Caching(nn.Module):
    """Keeps what its first call computes, so that a second backward fails in the model itself."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(4))
        self.kept: dict[str, torch.Tensor] = {}

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if "weight" not in self.kept or self.training:
            self.kept["weight"] = self.weight.exp()
        return x * self.kept["weight"]


def test_model_that_fails_itself_on_a_second_microbatch_is_not_blamed_on_the_split() -> None:
    model = nn.Sequential(nn.Linear(4, 4), Caching(), nn.Linear(4, 2))
    report = autopipe.split(model, 2, (torch.randn(6, 4),)).verify()
    assert report.is_equal, str(report)
    assert "The model itself does not run on 3 microbatches: RuntimeError: Trying to backward" in str(report)


def test_model_that_wants_two_rows_is_not_given_one() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    report = autopipe.split(model, 2, (torch.randn(2, 4),)).verify()
    assert report.is_equal, str(report)
    assert "ValueError: Expected more than 1 value per channel" in str(report)
    assert "3 of two sizes" not in {run.numbers for run in report.passed if run.flags == "train"}


# -- refused


def test_meta_model_is_refused() -> None:
    with torch.device("meta"):
        model = Net()
    pipe = autopipe.split(model, 2, (torch.empty(6, 4, device="meta"),))
    with pytest.raises(
        ArgumentError, match=r"a model on the meta device cannot be verified\.\n  first.weight"
    ):
        pipe.verify()


def test_example_without_numbers_is_refused() -> None:
    pipe = autopipe.split(Net(), 2, (torch.empty(6, 4, device="meta"),))
    with pytest.raises(ArgumentError, match="example of shapes only, so there is nothing to verify it on"):
        pipe.verify()
