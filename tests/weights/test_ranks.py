"""Over processes each rank holds values of its own stage alone, and the training is the unsplit model's."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.dist.crew import Crew
from tests.weights import ranks


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("checkpoints")


@pytest.fixture(scope="module")
def crew(folder: Path) -> Iterator[Crew]:
    made = Crew(2, ranks.prepare, str(folder))
    yield made
    made.close()


@pytest.mark.parametrize(("name", "way"), ranks.CASES)
def test_each_rank_gives_values_to_its_own_stage_and_trains(
    crew: Crew, folder: Path, name: str, way: str
) -> None:
    first, second = crew.run(ranks.gives_its_own, name, way, str(folder))
    assert first
    assert second
    assert not set(first) & set(second)
