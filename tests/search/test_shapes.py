"""Layouts of devices and batches."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from autopipe.search import shapes_for


@given(st.integers(1, 40), st.integers(1, 64), st.sets(st.integers(1, 8), min_size=1))
def test_no_layout_takes_more_than_there_is_and_none_could_take_another_row(
    n_devices: int, n_samples: int, sizes: set[int]
) -> None:
    for shape in shapes_for(n_devices, n_samples, sizes):
        assert shape.n_stages * shape.n_replicas <= n_devices < shape.n_stages * (shape.n_replicas + 1)
        assert shape.samples in sizes
        step = shape.n_replicas * shape.n_microbatches * shape.samples
        assert abs(step - n_samples) <= shape.n_replicas * shape.samples / 2


def test_no_layout_is_another_with_idle_devices() -> None:
    found = list(shapes_for(12, 12, [1]))
    assert [(shape.n_stages, shape.n_replicas) for shape in found] == [
        (1, 12),
        (2, 6),
        (3, 4),
        (4, 3),
        (6, 2),
        (12, 1),
    ]


def test_a_prime_number_of_devices_leaves_some_idle() -> None:
    assert [(s.n_stages, s.n_replicas) for s in shapes_for(7, 7, [1])] == [(1, 7), (2, 3), (3, 2), (7, 1)]


def test_stages_may_be_given() -> None:
    assert [(s.n_stages, s.n_replicas) for s in shapes_for(8, 8, [1], n_stages=3)] == [(3, 2)]
