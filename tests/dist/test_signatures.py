"""Over a group, too, every call runs the graph that is right for it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.dist import signatures
from tests.dist.crew import Crew


@pytest.fixture(scope="module")
def two() -> Iterator[Crew]:
    made = Crew(2, signatures.split)
    yield made
    made.close()


def test_steps_of_other_signatures_and_sizes_are_those_of_the_plain_loop(two: Crew) -> None:
    names = [name for name, *_ in signatures.calls()]
    assert two.run(signatures.steps_of_many_signatures, within_s=240) == [names, names]
