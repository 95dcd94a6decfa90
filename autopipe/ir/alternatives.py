"""What was considered before a plan was made: one row an alternative, and which row was taken."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from autopipe.errors import PlanMismatchError

__all__ = ["Alternative", "Alternatives"]

_HEADS = (
    "stages",
    "replicas",
    "microbatches",
    "schedule",
    "hardware",
    "recompute",
    "step",
    "a sample",
    "memory",
)
_MAY_GO = (3, 4, 5)  # columns that are said above the table where all rows agree


@dataclass(frozen=True, slots=True)
class Alternative:
    """One way to use the machines, and what it is predicted to take.

    Args:
        n_stages: Stages of one replica, one a device.
        n_replicas: Copies of the whole pipeline, each with its own part of the batch.
        n_microbatches: Microbatches of a step, of one replica.
        samples: Samples of one microbatch.
        schedule: Name of the schedule.
        hardware: Name of the machines and links.
        n_recomputed: Stages that run their forward twice, because they do not fit otherwise.
        bottleneck_ms: The largest stage time of one microbatch.
        lower_bound_ms: No partition into so many stages has a smaller one.
        exchange_ms: Of a step, adding up the replicas' gradients.
        step_ms: A whole step, simulated, exchange included.
        memory_bytes: What the fullest device holds.
        refused: Why there is no such plan; the numbers are 0 then.
        replicas: Devices of each stage, where they differ from stage to stage. Such a layout is shown to
            compare with; the runtime runs those that are alike.

    Example:
        >>> a = Alternative(2, 4, 8, 16, "1f1b", "h100", 0, 3.0, 3.0, 1.0, 32.0, 2**30)
        >>> a.n_devices, a.ms_per_sample
        (8, 0.0625)
    """

    n_stages: int
    n_replicas: int
    n_microbatches: int
    samples: int
    schedule: str
    hardware: str
    n_recomputed: int = 0
    bottleneck_ms: float = 0.0
    lower_bound_ms: float = 0.0
    exchange_ms: float = 0.0
    step_ms: float = 0.0
    memory_bytes: int = 0
    refused: str = ""
    replicas: tuple[int, ...] = ()

    @property
    def n_devices(self) -> int:
        """Devices in use."""
        if self.replicas:
            return sum(self.replicas)
        return self.n_stages * self.n_replicas

    @property
    def n_samples(self) -> int:
        """Samples of a step, over all replicas."""
        return self.n_replicas * self.n_microbatches * self.samples

    @property
    def ms_per_sample(self) -> float:
        """What a step takes for each of its samples; infinite where there is no such plan."""
        return self.step_ms / self.n_samples if not self.refused else float("inf")

    def verify(self) -> None:
        """Raise unless all counts are positive and the bound is not above the bottleneck.

        Raises:
            PlanMismatchError: Names the number.
        """
        if self.replicas and (len(self.replicas) != self.n_stages or min(self.replicas) < 1):
            raise PlanMismatchError(f"an alternative of {self.n_stages} stages has replicas {self.replicas}.")
        for name in ("n_stages", "n_replicas", "n_microbatches", "samples"):
            if getattr(self, name) < 1:
                raise PlanMismatchError(f"an alternative has {name} = {getattr(self, name)}.")
        if not self.refused and self.lower_bound_ms > self.bottleneck_ms:
            raise PlanMismatchError(
                f"an alternative has a bottleneck of {self.bottleneck_ms} ms, below its bound of "
                f"{self.lower_bound_ms} ms."
            )

    def cells(self) -> tuple[str, ...]:
        """What a table shows of it, a text a column."""
        shape = (
            f"{self.n_stages}",
            "+".join(map(str, self.replicas)) or f"{self.n_replicas}",
            f"{self.n_microbatches} x {self.samples}",
            self.schedule,
            self.hardware,
        )
        if self.refused:
            return (*shape, "", "", "", "")
        again = f"{self.n_recomputed} of {self.n_stages}" if self.n_recomputed else "-"
        times = (f"{self.step_ms:.4g} ms", f"{self.ms_per_sample:.4g} ms")
        return (*shape, again, *times, f"{self.memory_bytes / 2**30:.3g} GiB")

    def __str__(self) -> str:
        """One line."""
        return "  ".join(cell for cell in (*self.cells(), self.refused) if cell)


@dataclass(frozen=True, slots=True)
class Alternatives:
    """All rows that were considered, in the order of the question, and the one that was taken.

    Args:
        rows: The alternatives.
        taken: Index of the one that the plan is for; None where all are kept.

    Example:
        >>> one = Alternative(1, 2, 4, 1, "1f1b", "cpu", step_ms=8)
        >>> rows = (one, Alternative(2, 1, 8, 1, "1f1b", "cpu", step_ms=6))
        >>> print(Alternatives(rows, 1))
        schedule 1f1b, hardware cpu, recompute -
          stages  replicas  microbatches  step  a sample  memory
               1         2         4 x 1  8 ms      1 ms   0 GiB
        *      2         1         8 x 1  6 ms   0.75 ms   0 GiB
    """

    rows: tuple[Alternative, ...]
    taken: int | None = None

    @property
    def best(self) -> Alternative:
        """The row that can be run and takes the least time for a sample; of equal ones the leanest."""
        return min((row for row in self.rows if not row.replicas), key=_rank)

    def verify(self) -> None:
        """Raise unless there are rows, each is sound, and the one taken is among them.

        Raises:
            PlanMismatchError: If not.
        """
        if all(row.replicas for row in self.rows) or not (
            self.taken is None or 0 <= self.taken < len(self.rows)
        ):
            raise PlanMismatchError(f"row {self.taken} of {len(self.rows)} alternatives was taken.")
        for row in self.rows:
            row.verify()

    def to_json(self) -> dict[str, Any]:
        """Return plain data that ``from_json`` reads."""
        return {"rows": [asdict(row) for row in self.rows], "taken": self.taken}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Alternatives:
        """Read what ``to_json`` wrote; verified."""
        rows = ({**row, "replicas": tuple(row.get("replicas", ()))} for row in data["rows"])
        found = cls(tuple(Alternative(**row) for row in rows), data["taken"])
        found.verify()
        return found

    def table(self, at_most: int | None = None) -> str:
        """Print the rows; ``*`` marks the one that was taken.

        Args:
            at_most: Only so many, the fastest first; None: all, in the order of the question.

        Returns:
            One line a row; what is the same in all of them is said above.
        """
        order = list(range(len(self.rows)))
        if at_most is not None:
            order = sorted(order, key=lambda i: _rank(self.rows[i]))[:at_most]
        cells = {i: self.rows[i].cells() for i in order}
        same = [c for c in _MAY_GO if len({row[c] for row in cells.values() if row[c]}) <= 1]
        columns = [c for c in range(len(_HEADS)) if c not in same]
        widths = [max(len(row[c]) for row in (_HEADS, *cells.values())) for c in columns]
        lines = [", ".join(f"{_HEADS[c]} {_said(cells, c)}" for c in same)] if same else []
        lines.append("  " + "  ".join(_HEADS[c].rjust(w) for c, w in zip(columns, widths, strict=True)))
        for i in order:
            shown = "  ".join(cells[i][c].rjust(w) for c, w in zip(columns, widths, strict=True))
            lines.append(f"{'*' if i == self.taken else ' '} {shown}".rstrip() + _why_not(self.rows[i]))
        more = len(self.rows) - len(order)
        return "\n".join([*lines, f"  and {more} slower"] if more else lines)

    def __str__(self) -> str:
        """All rows as a table."""
        return self.table()


def _rank(row: Alternative) -> tuple[float, int]:
    """What rows are ordered by; times that differ by rounding alone are equal."""
    return float(f"{row.ms_per_sample:.9g}"), row.memory_bytes


def _said(cells: Mapping[int, tuple[str, ...]], column: int) -> str:
    return next((row[column] for row in cells.values() if row[column]), "-")


def _why_not(row: Alternative) -> str:
    return f"  {row.refused}" if row.refused else "  to compare" if row.replicas else ""
