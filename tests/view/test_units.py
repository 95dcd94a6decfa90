"""Numbers as people read them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autopipe.view.units import format_bytes, format_ms, format_share, time_unit


@pytest.mark.parametrize(
    ("nbytes", "shown"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 KiB"),
        (1023, "1.0 KiB"),
        (10 * 1024, "10 KiB"),
        (298 * 2**20, "298 MiB"),
        (1000 * 2**20, "1.0 GiB"),
        (int(1.9 * 2**30), "1.9 GiB"),
        (2**50, "1024 TiB"),
    ],
)
def test_bytes(nbytes: int, shown: str) -> None:
    assert format_bytes(nbytes) == shown


@given(st.integers(0, 900 * 2**40))
def test_bytes_fit_their_column_and_are_right_to_a_twentieth(nbytes: int) -> None:
    shown = format_bytes(nbytes)
    value, unit = shown.split()
    assert len(shown) <= 7
    assert float(value) * 1024 ** ["B", "KiB", "MiB", "GiB", "TiB"].index(unit) == pytest.approx(
        nbytes, rel=0.06
    )


@given(st.floats(1e-6, 1e7))
def test_times_are_right_to_a_hundredth(time_ms: float) -> None:
    value, unit = format_ms(time_ms).split()
    unit_ms = {"us": 1e-3, "ms": 1.0, "s": 1e3}[unit]
    assert float(value) * unit_ms == pytest.approx(time_ms, rel=0.01, abs=1e-5)
    assert (unit, unit_ms) == time_unit(time_ms)


def test_shares() -> None:
    assert [format_share(x) for x in (0.0, 0.026, 0.0994, 0.0996, 0.27, 1.18)] == [
        "0 %",
        "2.6 %",
        "9.9 %",
        "10 %",
        "27 %",
        "118 %",
    ]
