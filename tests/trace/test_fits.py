"""Arguments that the model itself refuses are refused as its fault, not as that of the capture."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from autopipe.errors import ArgumentError
from autopipe.trace import capture

X = torch.ones(4, 6)


class Net(nn.Module):
    """Two linears, one of them deep inside."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Sequential(nn.Linear(6, 6), nn.ReLU()))
        self.last = nn.Linear(6, 2)

    def forward(self, x: torch.Tensor, scale: float = 1.0, *, mask: Any = None) -> torch.Tensor:
        return self.last(self.body(x)) * scale


@pytest.mark.parametrize(
    ("args", "kwargs", "what"),
    [
        ((), {"scale": X}, "missing a required argument: 'x'"),
        ((X,), {"msk": X}, "got an unexpected keyword argument 'msk'"),
        ((X, 1.0, X), {}, "too many positional arguments"),
        ((X,), {"x": X}, "multiple values for argument 'x'"),
    ],
)
def test_arguments_that_do_not_bind_are_named(args: Any, kwargs: Any, what: str) -> None:
    with pytest.raises(ArgumentError) as raised:
        capture(Net(), args, kwargs)
    assert "the arguments do not fit forward(x, scale=1.0, *, mask=None)" in raised.value.what
    assert what in raised.value.what


def test_an_argument_that_only_a_decorator_takes_is_left_to_it() -> None:
    def without_return_dict(function: Any) -> Any:
        @functools.wraps(function)
        def forward(self: nn.Module, *args: Any, return_dict: bool = True, **kwargs: Any) -> Any:
            out = function(self, *args, **kwargs)
            return {"out": out} if return_dict else out

        return forward

    class Decorated(Net):
        forward = without_return_dict(Net.forward)

    traced = capture(Decorated(), (X,), {"return_dict": False})
    assert len(traced.out_names) == 1


class Scored(nn.Module):
    """Looks tokens up, and judges by labels."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(8, 6), nn.Sequential(nn.Linear(6, 3))

    def forward(self, ids: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        scores = self.head(self.embed(ids))
        return F.cross_entropy(scores.flatten(0, 1), labels.flatten(), ignore_index=-1)


IDS = torch.arange(8).reshape(4, 2)
LABELS = torch.tensor([[0, 1], [2, -1], [0, 0], [1, 2]])


@pytest.mark.parametrize(
    ("ids", "labels", "where", "what"),
    [
        (IDS + 1, LABELS, "in embed", "the index 8 is out of range for an embedding of 8 rows"),
        (IDS - 1, LABELS, "in embed", "the index -1 is out of range for an embedding of 8 rows"),
        (IDS, LABELS + 1, "at", "the index 3 is out of range for a loss over 3 classes"),
        (IDS, LABELS - 1, "at", "the index -2 is out of range for a loss over 3 classes"),
        (IDS, LABELS.int(), "at", "expected target dtype to be Long or Byte, but got Int"),
    ],
)
def test_indices_that_no_table_has_are_refused_as_the_model_would(
    ids: torch.Tensor, labels: torch.Tensor, where: str, what: str
) -> None:
    with pytest.raises((IndexError, RuntimeError)):
        Scored()(ids, labels)
    with pytest.raises(ArgumentError) as raised:
        capture(Scored(), (ids, labels))
    assert what in raised.value.what
    assert where in raised.value.where
    assert f"labels: {str(labels.dtype).removeprefix('torch.')}[4, 2]" in raised.value.why


def test_indices_that_the_model_brings_in_range_are_no_mistake() -> None:
    class Padded(Scored):
        def forward(self, ids: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
            return super().forward(ids.clamp_(0, 7), labels[:, :1].expand(-1, 2))

    capture(Scored(), (IDS, LABELS))
    capture(Scored(), (IDS.to("meta"), LABELS.to("meta")))
    capture(Padded(), (IDS * 100, torch.stack([LABELS[:, 0], LABELS[:, 1] + 100], 1)))


@pytest.mark.parametrize("layer", [nn.GELU(), nn.SiLU(), nn.Softmax(-1), nn.Softplus(), nn.GLU()], ids=repr)
def test_integers_into_an_activation_are_refused_as_the_model_would(layer: nn.Module) -> None:
    with pytest.raises(NotImplementedError) as plain:
        layer(X.long())
    with pytest.raises(ArgumentError) as raised:
        capture(nn.Sequential(nn.Identity(), layer), (X.long(),))
    assert str(plain.value) in raised.value.what


def test_nested_tensors_are_refused() -> None:
    rows = torch.nested.nested_tensor([torch.ones(2, 6), torch.ones(3, 6)], layout=torch.jagged)
    with pytest.raises(ArgumentError, match=r"x.* is a nested tensor"):
        capture(Net(), (), {"x": rows})


@pytest.mark.parametrize("shape", [(0, 6), (3, 0, 6)])
def test_an_empty_example_is_captured_for_others(shape: tuple[int, ...]) -> None:
    traced = capture(Net(), (torch.ones(shape),))
    assert traced.bind([shape]) is not None
    assert (traced.bind([(5, *shape[1:])]) is None) is (traced.inputs[0].spec.shape[0] != "B")


@pytest.mark.parametrize("x", [X[:, :5], X.long(), X.double()], ids=["width", "int64", "float64"])
def test_tensors_that_the_model_refuses_are_refused_with_the_module(
    x: torch.Tensor, caplog: pytest.LogCaptureFixture
) -> None:
    model = Net()
    with pytest.raises(RuntimeError) as plain:
        model(x)
    before, state = torch.get_rng_state(), {name: t.clone() for name, t in model.state_dict().items()}
    with pytest.raises(ArgumentError) as raised:
        capture(model, (x,))
    assert str(plain.value).splitlines()[0] in raised.value.what
    assert raised.value.where.startswith("in body.0.0 at ")
    assert f"x: {str(x.dtype).removeprefix('torch.')}{list(x.shape)}" in raised.value.why
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(t, state[name]) for name, t in model.state_dict().items())
    assert not [record for record in caplog.records if record.name == "torch._subclasses.fake_tensor"]
