"""Where the loss comes from, and how microbatches weigh."""

from __future__ import annotations

from collections import namedtuple
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from autopipe.errors import ArgumentError
from tests.runtime.training import engine_of

Named = namedtuple("Named", ["logits", "loss"])


class OwnLoss(nn.Module):
    """Returns its loss in one of many ways; it is made before the last stage."""

    def __init__(self, form: str) -> None:
        super().__init__()
        self.form = form
        self.first, self.second, self.third = nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Any:
        loss = self.first(x).square().mean()
        logits = self.third(self.second(self.first(x)))
        return {
            "scalar": loss + logits.mean(),
            "dict": {"logits": logits, "loss": loss},
            "named": Named(logits, loss),
            "none": {"logits": logits},
            "tensor": logits,
        }[self.form]


def engine_for(form: str, **options: Any) -> Any:
    torch.manual_seed(0)
    model = OwnLoss(form)
    stages = {"first": 0, "second": 1, "third": 2}
    return model, engine_of(model, (torch.ones(2, 3),), n_stages=3, stages=stages, **options)


@pytest.mark.parametrize("form", ["scalar", "dict", "named"])
def test_the_models_own_loss_is_used_and_other_outputs_stay_home(form: str):
    model, engine = engine_for(form, n_microbatches=2)
    x = torch.randn(5, 3)
    found = engine.step(x)
    full = model(x)
    expected = {"scalar": lambda: full, "dict": lambda: full["loss"], "named": lambda: full.loss}[form]()
    torch.testing.assert_close(found.loss, expected.detach())
    messages = [a for row in engine.schedule.rows for a in row if a.op == "SEND" and a.carries == "F"]
    if form != "scalar":
        assert {(a.stage, a.peer) for a in messages} >= {(0, 2)}
        again = engine.step(x, return_output=True)
        output = again.output["logits"] if form == "dict" else again.output.logits
        torch.testing.assert_close(output, (full["logits"] if form == "dict" else full.logits).detach())
        assert type(again.output) is type(full)


@pytest.mark.parametrize(
    ("form", "text"), [("none", "without a loss of its own"), ("tensor", "which is no loss")]
)
def test_no_loss_is_an_error_that_shows_the_call(form: str, text: str):
    _, engine = engine_for(form)
    with pytest.raises(ArgumentError, match=text) as caught:
        engine.step(torch.ones(2, 3))
    assert "loss_fn=loss_fn" in caught.value.remedy


def test_a_loss_that_is_no_scalar_is_named():
    _, engine = engine_for("tensor")
    with pytest.raises(ArgumentError, match=r"loss_fn returned a tensor of shape \(1, 3\)"):
        engine.step(torch.ones(2, 3), loss_fn=lambda out: out)


def test_loss_fn_sees_the_output_as_the_model_returns_it_once_a_microbatch():
    seen: list[Any] = []

    def loss_fn(output: Any, *rest: Any) -> Tensor:
        seen.append((output, rest))
        return output.logits.sum()

    _, engine = engine_for("named", n_microbatches=2)
    engine.step(torch.ones(3, 3), loss_fn=loss_fn)
    engine.step(torch.ones(3, 3), loss_fn=loss_fn, target={"y": torch.arange(3), "w": torch.ones(7)})
    assert [type(output) for output, _ in seen] == [Named] * 4
    assert [rest for _, rest in seen[:2]] == [(), ()]
    assert [rest[0]["y"].tolist() for _, rest in seen[2:]] == [[0, 1], [2]]
    assert [len(rest[0]["w"]) for _, rest in seen[2:]] == [7, 7]


def test_sum_adds_and_mean_weighs_by_samples():
    x = torch.randn(5, 3)
    for reduction in ("mean", "sum"):
        model, engine = engine_for("tensor", n_microbatches=2, loss_reduction=reduction)
        reduce = torch.mean if reduction == "mean" else torch.sum
        found = engine.step(x, loss_fn=lambda out, reduce=reduce: reduce(out.square()))
        split_grad = model.first.weight.grad.clone()
        model.zero_grad()
        loss = reduce(model(x).square())
        loss.backward()
        torch.testing.assert_close(found.loss, loss.detach())
        torch.testing.assert_close(split_grad, model.first.weight.grad)


def test_an_unknown_reduction_is_an_error():
    with pytest.raises(ArgumentError, match="there is no loss_reduction 'max'"):
        engine_for("tensor", loss_reduction="max")
