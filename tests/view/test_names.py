"""Names that fit."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autopipe.view.names import fit, joined, short_names

words = st.text("abc.0_ ", max_size=30)


@given(words, words, words, st.integers(5, 40))
def test_a_name_always_fits(first: str, last: str, rougher: str, width: int) -> None:
    assert len(fit(joined(first, last), width, rougher=rougher)) <= width


@given(words)
def test_a_name_that_fits_is_left_alone(name: str) -> None:
    assert fit(name, max(5, len(name))) == name


@given(st.lists(st.text("ab.01", min_size=1, max_size=8), unique=True))
def test_short_names_are_ends_and_stay_different(fqns: list[str]) -> None:
    shorter = short_names(fqns)
    assert set(shorter) == set(fqns)
    assert all(fqn.endswith(short) and short for fqn, short in shorter.items())
    assert len(set(shorter.values())) == len(fqns)


@pytest.mark.parametrize(
    ("width", "shown"),
    [
        (24, "h.1.mlp.fc ... h.7.attn"),
        (21, "h.1.mlp.fc ... 7.attn"),
        (18, "h.1.mlp.fc..7.attn"),
        (17, "h.1 ... h.7"),
        (8, "h.1..7"),
    ],
)
def test_the_rougher_name_comes_before_cutting(width: int, shown: str) -> None:
    assert fit("h.1.mlp.fc ... h.7.attn", width, rougher="h.1 ... h.7") == shown
