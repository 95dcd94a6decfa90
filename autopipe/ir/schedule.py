"""What every rank does, in which order: one row of actions a rank. Bubbles are the absence of actions."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from autopipe.errors import ScheduleError
from autopipe.ir.action import Action, Message, Op, Transfer
from autopipe.ir.schedule_rules import broken_rules

__all__ = ["Action", "Message", "Op", "Schedule", "Transfer"]

_GRID_STEPS = 6  # actions shown before and after a mark: a line stays readable with 64 stages
_ROW = re.compile(r"rank (\d+):(.*)")


@dataclass(frozen=True, slots=True, repr=False)
class Schedule:
    """One row of actions a rank; data that one interpreter runs and one simulator times.

    Args:
        name: How the schedule is called, such as "1f1b".
        rows: One tuple of actions a rank, in the order in which the rank takes them.
        n_stages: Stages of the pipeline.
        n_microbatches: Microbatches of a step.
        rank_of_stage: ``[n_stages]`` the rank that holds each stage.

    Example:
        >>> schedule = Schedule.from_rows("1f1b", ["0F0 0F1 0B0 0B1", "1F0 1B0 1F1 1B1"])
        >>> schedule.verify()
        >>> schedule
        Schedule(1f1b, 2 stages, 2 microbatches, 2 ranks)
        >>> print(schedule)
        1f1b: 2 stages, 2 microbatches
        rank 0: 0F0 0F1 0B0 0B1
        rank 1: 1F0 1B0 1F1 1B1
        >>> Schedule.parse(str(schedule)) == schedule
        True
    """

    name: str
    rows: tuple[tuple[Action, ...], ...]
    n_stages: int
    n_microbatches: int
    rank_of_stage: tuple[int, ...]

    def __repr__(self) -> str:
        """Return one line: the name and the sizes."""
        sizes = f"{self.n_stages} stages, {self.n_microbatches} microbatches, {self.n_ranks} ranks"
        return f"Schedule({self.name}, {sizes})"

    @property
    def n_ranks(self) -> int:
        """How many ranks run it."""
        return len(self.rows)

    @property
    def has_comms(self) -> bool:
        """Whether SEND and RECV are in the rows; without them every value is taken to arrive by itself."""
        return any(action.op.is_comm for row in self.rows for action in row)

    # Text, CSV and JSON

    @classmethod
    def from_rows(cls, name: str, rows: Iterable[str | Iterable[str]]) -> Schedule:
        """Build a schedule from rows of text; the sizes and the ranks of the stages are read off the actions.

        Args:
            name: Name of the schedule.
            rows: One row a rank: its actions in the grammar of ``Action``, apart or separated by blanks.

        Returns:
            The schedule, not verified.

        Raises:
            ScheduleError: If a word is no action, or if a stage appears in no row or in two.
        """
        parsed = tuple(
            tuple(Action.parse(word) for word in (row.split() if isinstance(row, str) else row))
            for row in rows
        )
        rank_of: dict[int, int] = {}
        n_microbatches = 0
        for rank, row in enumerate(parsed):
            for action in row:
                if (other := rank_of.setdefault(action.stage, rank)) != rank:
                    raise ScheduleError(
                        f"stage {action.stage} is on rank {other} and on rank {rank}.", where=str(action)
                    )
                n_microbatches = max(
                    n_microbatches, -1 if action.microbatch is None else action.microbatch + 1
                )
        n_stages = max(rank_of, default=-1) + 1
        if missing := sorted(set(range(n_stages)) - set(rank_of)):
            raise ScheduleError(f"stage {missing[0]} has no action in any row of {name}.")
        return cls(name, parsed, n_stages, n_microbatches, tuple(rank_of[stage] for stage in range(n_stages)))

    def __str__(self) -> str:
        """Return the text that ``parse`` reads: a title, then one line a rank."""
        lines = [f"{self.name}: {self.n_stages} stages, {self.n_microbatches} microbatches"]
        lines += [f"rank {rank}: {' '.join(map(str, row))}".rstrip() for rank, row in enumerate(self.rows)]
        return "\n".join(lines)

    @classmethod
    def parse(cls, text: str) -> Schedule:
        """Read a schedule from its text.

        Args:
            text: A title line ``name: ...``, then one line ``rank 0: 0F0 0F1 ...`` a rank.

        Returns:
            The schedule, not verified.

        Raises:
            ScheduleError: If the title or a rank is missing, or if a word is no action.
        """
        title, *lines = text.strip().splitlines() or [""]
        name, colon, _ = title.partition(":")
        if not colon:
            raise ScheduleError(
                f"{title!r} is no title of a schedule.", why="It reads 1f1b: 2 stages, 2 microbatches."
            )
        rows: list[str] = []
        for line in lines:
            match = _ROW.fullmatch(line.strip())
            if match is None or int(match[1]) != len(rows):
                raise ScheduleError(
                    f"{line!r} is not the row of rank {len(rows)}.", why="It reads rank 0: 0F0 0F1."
                )
            rows.append(match[2])
        return cls.from_rows(name, rows)

    def to_csv(self) -> str:
        """Return one line a rank, one cell an action; without comms torch.distributed.pipelining loads it."""
        out = io.StringIO()
        csv.writer(out, lineterminator="\n").writerows([map(str, row) for row in self.rows])
        return out.getvalue()

    @classmethod
    def from_csv(cls, text: str, *, name: str) -> Schedule:
        """Read what ``to_csv`` gave, or a compute-only file of torch.distributed.pipelining.

        Args:
            text: One line a rank, one cell an action; empty cells are bubbles and dropped.
            name: Name of the schedule, which the cells do not tell.

        Returns:
            The schedule, not verified.

        Raises:
            ScheduleError: If a cell is no action.
        """
        return cls.from_rows(
            name, [[cell.strip() for cell in row if cell.strip()] for row in csv.reader(io.StringIO(text))]
        )

    def to_json(self) -> dict[str, Any]:
        """Return the schedule as a dict that ``from_json`` reads; a row is one string."""
        return {
            "name": self.name,
            "n_stages": self.n_stages,
            "n_microbatches": self.n_microbatches,
            "rank_of_stage": list(self.rank_of_stage),
            "rows": [" ".join(map(str, row)) for row in self.rows],
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Schedule:
        """Read a schedule from what ``to_json`` gave.

        Args:
            data: The dict.

        Returns:
            The schedule, not verified.

        Raises:
            ScheduleError: If a word of a row is no action.
        """
        rows = tuple(tuple(map(Action.parse, row.split())) for row in data["rows"])
        return cls(data["name"], rows, data["n_stages"], data["n_microbatches"], tuple(data["rank_of_stage"]))

    # The rules

    def grid(self, marks: Mapping[int, int]) -> str:
        """Return the rows around the marked steps, each mark with ``<-- ERROR HERE`` after its action.

        Args:
            marks: rank -> step in its row; the length of the row marks its end. Ranks without a mark are
                shown at the same step as the first mark.

        Returns:
            One line a rank.
        """
        return "\n".join(self._grid_line(rank, marks) for rank in range(self.n_ranks))

    def _grid_line(self, rank: int, marks: Mapping[int, int]) -> str:
        row = self.rows[rank]
        step = marks.get(rank, next(iter(marks.values()), 0))
        first, last = max(0, step - _GRID_STEPS), min(len(row), step + _GRID_STEPS + 1)
        words = [str(action) for action in row[first:last]]
        if rank in marks:
            words.insert(step + 1 - first, "<-- ERROR HERE")
        head, tail = "... " if first else "", " ..." if last < len(row) else ""
        return f"rank {rank}: {head}{' '.join(words)}{tail}".rstrip()

    def verify(self) -> None:
        """Check that every forward and backward is there once and in order, and every SEND has its RECV.

        Whether ranks wait for each other in a circle is found by ``autopipe.schedule.simulate``.
        Linear in the number of actions.

        Raises:
            ScheduleError: If a rule is broken; names the action and shows the rows with ``<-- ERROR HERE``.

        Example:
            >>> Schedule.from_rows("mine", ["0F0 0B0", "1B0 1F0"]).verify()
            Traceback (most recent call last):
            autopipe.errors.ScheduleError: 1B0 comes before its forward.
              rank 0: 0F0 0B0
              rank 1: 1B0 <-- ERROR HERE 1F0
        """
        if self.n_stages < 1 or self.n_microbatches < 1 or len(self.rank_of_stage) != self.n_stages:
            raise ScheduleError(f"{self!r} needs a stage, a microbatch, and a rank for every stage.")
        if strays := [rank for rank in self.rank_of_stage if not 0 <= rank < self.n_ranks]:
            raise ScheduleError(
                f"{self!r} has a stage on rank {strays[0]}.", where=f"rank_of_stage={self.rank_of_stage}"
            )
        for problem in broken_rules(self.rows, self.rank_of_stage, self.n_microbatches):
            raise ScheduleError(problem.text, where=self.grid({problem.rank: problem.step}))
