"""How far two values are apart, and what counts as rounding."""

from __future__ import annotations

import math

import pytest
import torch

from autopipe.verify.inputs import perturbed
from autopipe.verify.numbers import distance_of
from autopipe.verify.projection import projection

ONE = torch.tensor([1.0, -2.0, 4.0])


def test_equal_bits_are_no_distance() -> None:
    assert distance_of(ONE, ONE.clone()) is None
    assert distance_of(None, None) is None
    assert distance_of(torch.tensor([math.nan, math.inf]), torch.tensor([math.nan, math.inf])) is None
    assert distance_of(torch.empty(0), torch.empty(0)) is None


def test_distance_is_a_fraction_of_the_largest_entry() -> None:
    assert distance_of(ONE + torch.tensor([0.0, 0.4, 0.0]), ONE) == (pytest.approx(0.1), True)
    error, too_far = distance_of(ONE * (1 + 2e-7), ONE) or (0.0, True)
    assert 0 < error < 1e-6
    assert not too_far


@pytest.mark.parametrize(
    "found",
    [None, ONE[:2], ONE.double(), torch.tensor([1.0, math.nan, 4.0]), torch.tensor([1.0, -math.inf, 4.0])],
    ids=["missing", "shape", "dtype", "nan", "infinite"],
)
def test_what_cannot_be_rounding_is_infinitely_far(found: torch.Tensor | None) -> None:
    assert distance_of(found, ONE) == (math.inf, True)


def test_integers_are_never_rounded() -> None:
    assert distance_of(torch.tensor([1_000_001]), torch.tensor([1_000_000])) == (pytest.approx(1e-6), True)
    assert distance_of(torch.tensor([True]), torch.tensor([False])) == (math.inf, True)


def test_what_all_but_cancels_is_rounding_of_the_largest_of_its_kind() -> None:
    tiny, other = torch.tensor([1e-9]), torch.tensor([-1e-9])
    assert (distance_of(tiny, other) or (0, False))[1]
    assert not (distance_of(tiny, other, largest=1.0) or (0, True))[1]


def test_coarse_dtypes_get_coarse_tolerances() -> None:
    half = ONE.bfloat16()
    assert not (distance_of(half * 1.01, half) or (0, True))[1]
    assert (distance_of(ONE.double() * (1 + 1e-8), ONE.double()) or (0, False))[1]


def test_sparse_and_complex_gradients_can_be_compared() -> None:
    sparse = torch.tensor([0.0, 2.0]).to_sparse()
    assert distance_of(sparse, sparse.clone()) is None
    assert distance_of(sparse * 2, sparse) == (pytest.approx(1.0), True)
    assert distance_of(torch.tensor([1j]), torch.tensor([2j])) == (pytest.approx(0.5), True)


def test_projection_reaches_every_entry_of_every_floating_tensor() -> None:
    leaves = {"a": torch.ones(3, requires_grad=True), "b": torch.ones(2, 2, requires_grad=True)}
    total = projection({**leaves, "ids": torch.arange(3), "none": None})
    assert total is not None
    total.backward()
    assert all(leaf.grad is not None and bool((leaf.grad != 0).all()) for leaf in leaves.values())


def test_masked_scores_do_not_spoil_the_projection() -> None:
    scores = torch.tensor([1.0, -math.inf, math.nan], requires_grad=True)
    total = projection(scores)
    assert total is not None
    total.backward()
    assert total.isfinite()
    assert scores.grad is not None
    assert bool(scores.grad.isfinite().all())


def test_other_numbers_keep_zeros_ranges_dtypes_and_vocabulary() -> None:
    given = {
        "x": torch.tensor([0.0, 1.0, -1.0], requires_grad=True),
        "ids": torch.tensor([[3, 1, 2]]),
        "mask": torch.tensor([True, False]),
        "half": torch.ones(2, dtype=torch.bfloat16),
    }
    _, other = perturbed(((), given), integers=True)
    assert other["x"].requires_grad
    assert other["x"][0] == 0
    assert bool((other["x"].abs() <= 1).all())
    assert not other["x"].equal(given["x"])
    assert other["ids"].tolist() == [[2, 1, 3]]
    assert other["mask"].equal(given["mask"])
    assert other["half"].dtype == torch.bfloat16
    assert perturbed(((), given), integers=False)[1]["ids"].equal(given["ids"])
