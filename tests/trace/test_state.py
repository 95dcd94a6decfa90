"""What the model's Python sets on its modules is put back after capture, and not lost when it runs."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest
import torch
from torch import nn
from torch.nn.utils import prune

import autopipe
from autopipe.errors import CaptureError
from autopipe.trace import capture, signature_of
from tests.trace.agreement import assert_agrees, opaque_modules

X = torch.linspace(-2, 2, 24).reshape(4, 6)


class Counting(nn.Module):
    """A container that remembers how often it ran."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.n_calls, self.log = nn.Linear(6, 6), 0, []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.n_calls += 1
        self.log.append(x.shape[1])
        return self.linear(x) * self.n_calls


def test_calls_of_a_module_that_sets_attributes_share_a_stage() -> None:
    """The second call of a microbatch comes before the first call of the next one."""

    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear, self.counting = nn.Linear(6, 6), Counting()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            out: torch.Tensor = self.counting(self.linear(self.counting(x)))
            return out

    traced = capture(Twice(), (X,))
    calls = [node.name for node in traced.compute_nodes() if node.target == "counting"]
    assert len(calls) == 2
    assert any(set(calls) <= set(group) for group in traced.together)


def test_container_that_sets_attributes_is_kept_whole_and_left_as_it_was() -> None:
    model = nn.Sequential(nn.Linear(6, 6), Counting(), nn.Linear(6, 6))
    traced = capture(model, (X,))
    assert opaque_modules(traced) == {"1": "its forward sets 1.n_calls, 1.log, which a graph would forget"}
    assert (model[1].n_calls, model[1].log) == (0, [])
    model[1].n_calls = 0
    staged_like(model, traced)
    assert model[1].n_calls == 1


def staged_like(model: nn.Module, traced: Any) -> None:
    from autopipe.rewrite import rewrite
    from tests.rewrite.cutting import evenly, run

    run(rewrite(traced, model, evenly(traced, 2), 2), X)


def test_model_that_sets_its_own_attributes_is_explained() -> None:
    with pytest.raises(CaptureError, match=r"the model's forward sets n_calls, log.*forget"):
        capture(Counting(), (X,))


def test_buffer_replaced_in_forward_is_replaced_by_the_graph() -> None:
    class Average(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(6, 6)
            self.register_buffer("mean", torch.zeros(6))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.mean = 0.9 * self.mean + 0.1 * x.detach().mean(0)
            return self.linear(x) - self.mean

    model = nn.Sequential(nn.Linear(6, 6), Average(), nn.Linear(6, 6))
    traced = assert_agrees(model, (X,))
    assert not opaque_modules(traced)
    assert [info.writes for info in traced.info.values() if info.writes] == [("1.mean",)]


class Remembering(nn.Module):
    """Keeps what it saw: a tensor, a list, a dict; its pruned linear is given a new weight in every call."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.last, self.log, self.best = nn.Linear(6, 6), torch.zeros(()), [], {}
        prune.l1_unstructured(self.linear, "weight", 0.5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = self.linear(x)
        self.last = out.detach().mean()
        self.log.append(len(self.log))
        self.best["n"] = len(self.log)
        return out


def test_what_a_module_keeps_of_its_calls_does_not_have_it_captured_again() -> None:
    model = nn.Sequential(nn.Linear(6, 6), Remembering(), nn.Linear(6, 6))
    with autopipe.split(model, 2, (X,)).engine(n_microbatches=2) as engine:
        engine.step(X, loss_fn=torch.Tensor.mean)
        with mock.patch("autopipe.captures.capture", side_effect=AssertionError("captured again")):
            engine.step(X, loss_fn=torch.Tensor.mean)
    assert model[1].best == {"n": 4}


class Settled(nn.Module):
    """Sets attributes of its own and of a shared config, to the same in every call."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.config, self.linear, self.head = config, nn.Linear(6, 6), nn.Linear(6, 2)
        self.has_warned = False

    def forward(self, x: torch.Tensor, labels: torch.Tensor | None = None) -> torch.Tensor:
        if not self.has_warned:
            self.has_warned = True
        out = self.head(torch.relu(self.linear(x)))
        if labels is None:
            return out
        if self.config.kind is None:
            self.config.kind = "regression" if labels.is_floating_point() else "classes"
        if self.config.kind == "regression":
            return torch.nn.functional.mse_loss(out, labels)
        return torch.nn.functional.cross_entropy(out, labels)


def settled() -> Settled:
    torch.manual_seed(0)
    return Settled(SimpleNamespace(kind=None))


def test_what_is_set_alike_on_every_call_is_set_by_the_graph() -> None:
    labels = torch.tensor([0, 1, 1, 0])
    plain, model = settled(), settled()
    pipe = autopipe.split(nn.Sequential(model), 2, (X,))
    assert opaque_modules(pipe._captures.first.traced) == {}
    assert list(map(str, pipe._captures.first.traced.sets)) == ["0.has_warned = True"]
    assert not model.has_warned, "splitting leaves the model as it was"
    pipe(X)
    assert model.has_warned

    pipe = autopipe.split(model, 2, (X, labels))
    for given in (labels, labels, torch.zeros(4, 2)):  # the third is refused by both: the kind stays
        try:
            expected = plain(X, given)
        except RuntimeError:
            with pytest.raises((ValueError, RuntimeError)):
                pipe(X, given)
        else:
            assert torch.equal(pipe(X, given), expected)
        assert model.config.kind == plain.config.kind == "classes"


def test_a_step_sets_what_forward_sets_and_the_next_is_not_captured_again() -> None:
    model = settled()
    labels = torch.tensor([0, 1, 1, 0])
    with autopipe.split(model, 2, (X, labels)).engine(n_microbatches=2) as engine:
        engine.step(X, labels)
        assert (model.config.kind, model.has_warned) == ("classes", True)
        with mock.patch("autopipe.captures.capture", side_effect=AssertionError("captured again")):
            engine.step(X, labels)


class Growing(nn.Module):
    """Sets an attribute to another value in every call, or computes something else once it is set."""

    def __init__(self, step: int) -> None:
        super().__init__()
        self.linear, self.n, self.step = nn.Linear(6, 6), 0, step

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = self.linear(x) if self.n else self.linear(x) * 2
        self.n = max(1, self.n + self.step)
        return out


@pytest.mark.parametrize(
    ("step", "why"),
    [(1, "n is 1 after one call and 2 after two"), (0, "the second call does not compute what the first")],
)
def test_what_is_not_set_alike_on_every_call_is_explained_or_kept_whole(step: int, why: str) -> None:
    with pytest.raises(CaptureError, match=why):
        capture(Growing(step), (X,))
    model = nn.Sequential(nn.Linear(6, 6), Growing(step), settled())
    assert list(opaque_modules(capture(model, (X,)))) == (["1"] if step else ["1", "2"])


class Count(nn.Module):
    """A leaf that counts its calls."""

    def __init__(self) -> None:
        super().__init__()
        self.n_calls = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.n_calls += 1
        return x * self.n_calls


class Reader(nn.Module):
    """Reads what its leaf counts."""

    def __init__(self) -> None:
        super().__init__()
        self.count, self.linear = Count(), nn.Linear(6, 6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(self.count(x)) if self.count.n_calls % 2 else self.count(x)


def test_leaf_may_count_its_calls() -> None:
    model = nn.Sequential(nn.Linear(6, 6), Count(), nn.Linear(6, 6))
    traced = capture(model, (X,))
    assert opaque_modules(traced) == {}
    before = signature_of(model, (X,), {})
    staged_like(model, traced)
    assert model[1].n_calls == 1
    assert signature_of(model, (X,), {}) == before


def test_reader_of_what_a_leaf_changes_is_kept_whole() -> None:
    model = nn.Sequential(nn.Linear(6, 6), Reader(), nn.Linear(6, 6))
    traced = capture(model, (X,))
    assert list(opaque_modules(traced)) == ["1"]
    assert "n_calls" in opaque_modules(traced)["1"]


class Setter(nn.Module):
    """Sets an attribute of its leaf."""

    def __init__(self) -> None:
        super().__init__()
        self.drop, self.linear = nn.Dropout(0.5), nn.Linear(6, 6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.drop.p = 0.25
        return self.linear(self.drop(x))


def test_setter_of_a_leafs_attribute_is_kept_whole() -> None:
    model = nn.Sequential(nn.Linear(6, 6), Setter(), nn.Linear(6, 6))
    traced = capture(model, (X,))
    assert model[1].drop.p == 0.5
    assert list(opaque_modules(traced)) == ["1"]


def test_model_is_left_exactly_as_it_was() -> None:
    model = nn.Sequential(nn.Linear(6, 6), nn.BatchNorm1d(6), nn.Dropout(0.5), Counting())
    model[2].eval()
    model(X).sum().backward()
    tensors = {name: (t, t.clone()) for name, t in [*model.named_parameters(), *model.named_buffers()]}
    grads = {name: p.grad for name, p in model.named_parameters()}
    attributes = {name: dict(vars(m)) for name, m in model.named_modules()}
    random_state = torch.get_rng_state()
    capture(model, (X,))
    after = dict([*model.named_parameters(), *model.named_buffers()])
    assert all(
        after[name] is tensor and torch.equal(tensor, copy) for name, (tensor, copy) in tensors.items()
    )
    assert {name: p.grad for name, p in model.named_parameters()} == grads
    assert {name: dict(vars(m)) for name, m in model.named_modules()} == attributes
    assert torch.equal(torch.get_rng_state(), random_state)
    assert "__getattribute__" not in vars(nn.Module)
    assert nn.Module.__call__.__qualname__ == "Module._wrapped_call_impl"
