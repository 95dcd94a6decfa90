"""Values whose size only a run knows: made and read in one stage, and never counted on."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import autopipe
from autopipe.errors import CaptureError
from autopipe.trace import capture
from tests.trace.agreement import assert_agrees, calls, opaque_modules

X = torch.linspace(-2, 2, 48).reshape(4, 12)
LABELS = torch.tensor([[1, 2, 3], [2, 1, 0], [3, 0, 0], [1, 1, 2]])


class Selecting(nn.Module):
    """A linear, a selection by values, a second linear on what was selected, and a mean."""

    def __init__(self, select: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.second, self.select = nn.Linear(12, 12), nn.Linear(12, 2), select

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.select(self.first(x))).mean()


SELECTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "bool index": lambda x: x[x[:, 0] > -10],
    "nonzero": lambda x: x[(x[:, 0] > -10).nonzero(as_tuple=True)],
    "masked_select": lambda x: x.masked_select(x > -10)[:, None].expand(-1, 12),
    "unique": lambda x: x[torch.unique(x[:, 0] > 100).long()],
}


@pytest.mark.parametrize("name", SELECTIONS)
def test_selection_by_values_is_seen_through(name: str) -> None:
    traced = assert_agrees(Selecting(SELECTIONS[name]), (X,), n_stages=(1, 2, 4))
    assert opaque_modules(traced) == {}
    assert {"first", "second"} <= set(calls(traced))


def test_values_of_unknown_size_do_not_cross_a_cut() -> None:
    traced = capture(Selecting(lambda x: x[x[:, 0] > 0]), (X,))
    second = next(node for node in traced.compute_nodes() if node.target == "second")
    readers = {str(second.args[0]), second.name, *map(str, second.users)}
    assert any(readers <= set(group) for group in traced.together)
    assert not any("first" in group for group in traced.together)


def test_other_numbers_select_others() -> None:
    model = Selecting(lambda x: x[x[:, 0] > 0])
    model.first.weight.data.copy_(torch.eye(12))
    traced = capture(model, (X,))
    assert_agrees(model, (X.flip(0) + 1,), traced=traced)
    assert_agrees(model, (X[:2] + 3,), traced=traced)


class Counting(Selecting):
    """Uses the number of selected rows in its Python."""

    def forward(self, x: Tensor) -> Tensor:
        rows = self.select(self.first(x))
        return self.second(rows).sum() / rows.shape[0]


def test_model_that_counts_what_it_selected_is_explained() -> None:
    with pytest.raises(CaptureError, match="branches on the values") as raised:
        capture(Counting(lambda x: x[x[:, 0] > 0]), (X,))
    assert "rows.shape[0]" in raised.value.where


def test_module_that_counts_what_it_selected_is_one_node() -> None:
    model = nn.Sequential(nn.Linear(12, 12), Counting(lambda x: x[x[:, 0] > -10]))
    traced = assert_agrees(model, (X,))
    assert list(opaque_modules(traced)) == ["1"]


def test_sizes_that_must_agree_by_their_values_are_not_taken_to() -> None:
    class Adding(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return (x[x[:, 0] > -10] + x[x[:, 1] > -10]).sum() + x.sum()

    with pytest.raises(CaptureError, match="branches on the values"):
        capture(Adding(), (X,))


class Spoken(nn.Module):
    """Scores of characters, and the CTC loss of labels padded with 0."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Linear(1, 8), nn.Linear(8, 5)

    def forward(self, wave: Tensor, labels: Tensor) -> Tensor:
        scores = self.head(self.embed(wave[..., None]).relu())
        mask = labels > 0
        lengths = torch.full((scores.shape[0],), scores.shape[1])
        return F.ctc_loss(
            scores.log_softmax(-1).transpose(0, 1), labels.masked_select(mask), lengths, mask.sum(-1)
        )


def test_loss_of_spoken_text_is_part_of_the_graph() -> None:
    traced = assert_agrees(Spoken(), (X, LABELS), n_stages=(1, 2, 3))
    assert opaque_modules(traced) == {}


@pytest.mark.parametrize("cost", ["roofline", "measured"])
def test_spoken_text_trains_in_stages(cost: str) -> None:
    pipe = autopipe.split(Spoken(), 2, (X[:2], LABELS[:2]), n_microbatches=2, cost=cost)
    pipe.verify().raise_if_different()
