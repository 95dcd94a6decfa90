"""Counting the cuts, against trying all of them."""

from __future__ import annotations

from itertools import product

from hypothesis import given
from hypothesis import strategies as st

from autopipe.cli.legal_cuts import LegalCuts, count_legal_cuts


@st.composite
def orders(draw: st.DrawFn) -> list[tuple[int, ...]]:
    n = draw(st.integers(1, 8))
    return [tuple(draw(st.sets(st.integers(0, item - 1)))) if item else () for item in range(n)]


def all_downsets(preds: list[tuple[int, ...]]) -> int:
    choices = product([False, True], repeat=len(preds))
    return sum(
        all(inside[pred] for item, before in enumerate(preds) if inside[item] for pred in before)
        for inside in choices
    )


@given(orders())
def test_it_counts_every_downset_but_the_two_that_cut_nothing(preds: list[tuple[int, ...]]) -> None:
    assert count_legal_cuts(preds) == LegalCuts(all_downsets(preds) - 2, True)


@given(orders())
def test_where_it_stops_early_there_are_at_least_as_many(preds: list[tuple[int, ...]]) -> None:
    found = count_legal_cuts(preds, max_states=2)
    assert found.n <= count_legal_cuts(preds).n
    assert found.is_exact is (found == count_legal_cuts(preds)) or not found.is_exact


def test_a_chain_is_cut_between_its_nodes() -> None:
    assert count_legal_cuts([(), *((item,) for item in range(99))]) == LegalCuts(99, True)
