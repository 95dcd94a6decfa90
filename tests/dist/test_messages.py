"""What crosses between processes arrives as it does in one."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.dist import crossing
from tests.dist.crew import Crew


@pytest.fixture(scope="module")
def crew() -> Iterator[Crew]:
    made = Crew(2, crossing.prepare)
    yield made
    made.close()


def test_tensors_of_every_kind_cross(crew: Crew) -> None:
    assert crew.run(crossing.everything_crosses, True) == [0, 0]


def test_a_layout_that_is_not_what_was_expected_is_agreed_again(crew: Crew) -> None:
    n_changed = crew.run(crossing.everything_crosses, False)
    assert n_changed[0] == n_changed[1] > 0
