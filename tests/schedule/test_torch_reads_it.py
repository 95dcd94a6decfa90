"""Schedules without comms are those of torch.distributed.pipelining, by its own reader and its own rules."""

from __future__ import annotations

import csv
import io

import pytest
from torch.distributed.pipelining import schedules as theirs

from autopipe.schedule import build, schedule_names


@pytest.mark.parametrize("name", schedule_names())
@pytest.mark.parametrize(("n_stages", "n_ranks"), [(4, 4), (4, 2), (6, 3)])
def test_torch_parses_and_validates_the_csv(name: str, n_stages: int, n_ranks: int) -> None:
    text = build(name, n_stages, 8, n_ranks).to_csv()
    rows = dict(enumerate(csv.reader(io.StringIO(text))))
    actions = {rank: [theirs._Action.from_str(cell) for cell in row] for rank, row in rows.items()}
    assert {rank: [str(action) for action in row] for rank, row in actions.items()} == rows
    rank_of_stage = theirs._validate_schedule(actions, n_ranks, n_stages, 8)
    assert rank_of_stage == {stage: stage % n_ranks for stage in range(n_stages)}
