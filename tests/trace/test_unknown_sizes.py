"""Values whose size only a run knows: made and read in one stage, and never counted on."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import autopipe
from autopipe.errors import ArgumentError, CaptureError
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


class Masked(nn.Module):
    """The loss of the scores and labels that a mask selects."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(9, 4), nn.Linear(4, 9)

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        scores, kept = self.head(self.embed(ids))[:, :-1], mask[:, 1:] != 0
        return nn.CrossEntropyLoss()(scores[kept].contiguous(), ids[:, 1:][kept].contiguous())


def test_two_selections_by_one_mask_meet_in_a_loss() -> None:
    ids, mask = torch.arange(12).reshape(3, 4) % 9, torch.tensor([[1, 1, 1, 0], [1, 1, 0, 0], [1, 1, 1, 1]])
    traced = capture(Masked(), (ids, torch.ones_like(mask)))
    assert_agrees(Masked(), (ids, mask))
    assert opaque_modules(traced) == {}


class Adding(nn.Module):
    """Adds what was selected to what was not, which has its size or none."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(12, 12)

    def forward(self, x: Tensor) -> Tensor:
        y = self.linear(x)
        selected = y[x[:, 0] > 0] + y
        return selected.sum() / selected.shape[0]


def test_size_that_values_decide_is_not_taken_for_that_of_another_value() -> None:
    with pytest.raises(CaptureError, match="branches on the values") as raised:
        capture(Adding(), (X,))
    assert "selected = y[x[:, 0] > 0] + y" in raised.value.where


class Halves(nn.Module):
    """Refuses another number of positive rows than of others, and returns a mean of both."""

    def __init__(self, check: Callable[[Tensor, Tensor], None]) -> None:
        super().__init__()
        self.first, self.second, self.check = nn.Linear(12, 12), nn.Linear(12, 12), check

    def forward(self, x: Tensor) -> Tensor:
        some, others = x[x[:, 0] > 0], x[x[:, 0] <= 0]
        self.check(some, others)
        return self.second(self.first(some)).sum() + self.second(self.first(others)).pow(2).sum()


def _by_check(some: Tensor, others: Tensor) -> None:
    torch._check(some.shape[0] == others.shape[0], lambda: "as many")


def _by_raise(some: Tensor, others: Tensor) -> None:
    if some.numel() != 12 * others.shape[0]:
        raise ValueError("as many")


def _by_comparison(some: Tensor, others: Tensor) -> None:
    if 2 * some.shape[0] > 3 * others.shape[0]:
        raise ValueError("as many")


HALF = torch.cat([X[:2].abs() + 1, -X[:2].abs() - 1])


@pytest.mark.parametrize("check", [_by_check, _by_raise, _by_comparison])
def test_checks_of_such_sizes_are_made_in_every_run(check: Callable[[Tensor, Tensor], None]) -> None:
    model = Halves(check)
    traced = assert_agrees(model, (HALF,), n_stages=(1, 2))
    assert opaque_modules(traced) == {}
    assert_agrees(model, (torch.cat([HALF, HALF]),), traced=traced)
    pipe = autopipe.split(model, 2, (HALF,))
    with pytest.raises(CaptureError, match=r"refuses these values.*as many"):
        pipe(HALF.abs())


def test_check_of_a_size_against_one_that_is_open_is_made_in_every_run() -> None:
    class Filling(Selecting):
        def forward(self, x: Tensor, features: Tensor) -> Tensor:
            places = x > 0
            torch._check(x[places].numel() == features.numel())
            return self.second(self.first(x.masked_scatter(places, features)))

    model, features = Filling(lambda x: x), torch.randn(2, 12)
    traced = assert_agrees(model, (HALF, features), n_stages=(1, 2))
    assert opaque_modules(traced) == {}
    pipe = autopipe.split(model, 2, (HALF, features))
    with pytest.raises(CaptureError, match="refuses these values"):
        pipe(HALF, torch.randn(3, 12))


def test_branch_on_such_a_size_with_two_ways_that_go_on_is_real() -> None:
    class Branching(Adding):
        def forward(self, x: Tensor) -> Tensor:
            some = x[x[:, 0] > 0]
            if some.shape[0] > 2:
                return self.linear(some).sum()
            return self.linear(x).mean()

    with pytest.raises(CaptureError, match="branches on the values") as raised:
        capture(Branching(), (X,))
    assert "if some.shape[0] > 2" in raised.value.where


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


class Returned(nn.Module):
    """A loss, and the rows on its way that are positive."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(*(nn.Linear(12, 12) for _ in range(4)))

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        first = self.layers[0](x)
        found = first[x[:, 0] > 0]
        return {"loss": self.layers[1:](first).pow(2).mean() + found.sum(), "found": found}


def test_selected_rows_that_the_model_returns_are_as_many_as_each_call_selects() -> None:
    model = Returned()
    traced = assert_agrees(model, (X,), n_stages=(1, 2, 4))
    assert len(traced.loose) == 1
    for x in (X + 1, -X.abs(), X[:3]):
        assert_agrees(model, (x,), traced=traced)


def test_steps_take_the_loss_of_what_each_microbatch_selects() -> None:
    model = Returned()
    plain = [model(part)["found"].pow(2).sum() / 2 for part in X.split(2)]
    with autopipe.split(model, 4, (X,)).engine(n_microbatches=2) as engine:
        found = engine.step(X, loss_fn=lambda out: out["found"].pow(2).sum()).loss
        assert torch.allclose(found, torch.stack(plain).sum())
        losses = [model(part)["loss"] / 2 for part in X.split(2)]
        assert torch.allclose(engine.step(X).loss, torch.stack(losses).sum())


def test_selected_rows_of_several_microbatches_are_not_joined_by_guessing() -> None:
    pipe = autopipe.split(Returned(), 2, (X,))
    with (
        pipe.engine(n_microbatches=2) as engine,
        pytest.raises(ArgumentError, match=r"output\[.found") as raised,
    ):
        engine.forward(X)
    assert "n_microbatches=1" in str(raised.value)
    with pipe.engine(n_microbatches=1) as engine:
        assert torch.equal(engine.forward(X)["found"], pipe.model(X)["found"])


def test_the_certificate_says_what_several_microbatches_were_not_compared_in() -> None:
    report = autopipe.split(Returned(), 2, (X,)).verify()
    assert report.is_equal
    assert "output['found'] depend on the values" in str(report)
