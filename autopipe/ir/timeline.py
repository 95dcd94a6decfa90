"""When every action ran, measured or predicted: spans on the lanes of ranks."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from typing import Any, Literal

from autopipe.errors import ScheduleError
from autopipe.ir.action import Op

__all__ = ["Span", "Timeline"]

_CLOCK_MS = 1e-3  # two spans of one lane may overlap by this much: the resolution of measured clocks


@dataclass(frozen=True, slots=True)
class Span:
    """One action on one lane of one rank, from start to end.

    Args:
        rank: The rank whose lane it is on: for SEND the sender, for RECV the receiver.
        stage: The stage that acts.
        op: What it does.
        microbatch: Which microbatch; None for an update.
        start_ms: Start, from the start of the step.
        end_ms: End, from the start of the step.
        label: The action as text.

    Example:
        >>> span = Span(rank=0, stage=0, op=Op.F, microbatch=1, start_ms=2.0, end_ms=3.5, label="0F1")
        >>> print(span, span.lane, span.duration_ms)
        0F1 on rank 0, 2.000 to 3.500 ms compute 1.5
    """

    rank: int
    stage: int
    op: Op
    microbatch: int | None
    start_ms: float
    end_ms: float
    label: str

    @property
    def lane(self) -> Literal["compute", "send", "recv"]:
        """The lane of the rank that the span occupies; spans of one lane do not overlap."""
        if self.op is Op.SEND:
            return "send"
        return "recv" if self.op is Op.RECV else "compute"

    @property
    def duration_ms(self) -> float:
        """End minus start."""
        return self.end_ms - self.start_ms

    def __str__(self) -> str:
        """Return one line: the action, its rank and its times."""
        return f"{self.label} on rank {self.rank}, {self.start_ms:.3f} to {self.end_ms:.3f} ms"

    def verify(self) -> None:
        """Check the numbers.

        Raises:
            ScheduleError: If a number is negative, or if the span ends before it starts.
        """
        if min(self.rank, self.stage, self.microbatch or 0) < 0:
            raise ScheduleError(f"{self.label} has a negative number.", where=repr(self))
        if not 0 <= self.start_ms <= self.end_ms:
            raise ScheduleError(f"{self.label} ends before it starts, or starts before 0.", where=str(self))


@dataclass(frozen=True, slots=True, repr=False)
class Timeline:
    """The spans of one step.

    Args:
        spans: All spans; ``simulate`` gives them by start.
        n_ranks: How many ranks took part, also those without a span.

    Example:
        >>> spans = (Span(0, 0, Op.F, 0, 0.0, 1.0, "0F0"), Span(1, 1, Op.F, 0, 1.0, 2.0, "1F0"))
        >>> timeline = Timeline(spans, n_ranks=2)
        >>> timeline.verify()
        >>> timeline.makespan_ms, timeline.bubble_fraction
        (2.0, 0.5)
        >>> print(timeline)
        Timeline: 2 ranks, makespan 2.000 ms, bubble 50.0 %
        rank 0: compute 1.000 ms (50.0 %), send 0.000 ms, recv 0.000 ms
        rank 1: compute 1.000 ms (50.0 %), send 0.000 ms, recv 0.000 ms
    """

    spans: tuple[Span, ...]
    n_ranks: int
    _makespan_ms: float = field(init=False, compare=False)
    _busy_ms: Mapping[tuple[int, str], float] = field(init=False, compare=False)

    def __post_init__(self) -> None:
        """Read once off the spans, of which there may be a hundred thousand, what is asked for often."""
        busy_ms: dict[tuple[int, str], float] = defaultdict(float)
        for span in self.spans:
            busy_ms[span.rank, span.lane] += span.duration_ms
        object.__setattr__(self, "_makespan_ms", max((span.end_ms for span in self.spans), default=0.0))
        object.__setattr__(self, "_busy_ms", dict(busy_ms))

    @property
    def makespan_ms(self) -> float:
        """Time from 0 to the last end; 0 without spans."""
        return self._makespan_ms

    @property
    def bubble_fraction(self) -> float:
        """Share of the compute lanes that is idle between 0 and the makespan; 0 where nothing took time."""
        offered_ms = self.n_ranks * self.makespan_ms
        if not offered_ms:
            return 0.0
        return 1.0 - sum(span.duration_ms for span in self.spans if span.lane == "compute") / offered_ms

    def busy_ms(self, rank: int, lane: Literal["compute", "send", "recv"] = "compute") -> float:
        """Return how long a lane of a rank is occupied.

        Args:
            rank: The rank.
            lane: One of its lanes.

        Returns:
            The sum of its spans. O(1).
        """
        return self._busy_ms.get((rank, lane), 0.0)

    def __repr__(self) -> str:
        """Return one line: ranks, makespan and bubble."""
        ranks, bubble = f"{self.n_ranks} ranks", f"bubble {100 * self.bubble_fraction:.1f} %"
        return f"Timeline({ranks}, makespan {self.makespan_ms:.3f} ms, {bubble})"

    def __str__(self) -> str:
        """Return the summary line, then one line a rank: how long each of its lanes is occupied."""
        makespan_ms = self.makespan_ms
        bubble = f"bubble {100 * self.bubble_fraction:.1f} %"
        lines = [f"Timeline: {self.n_ranks} ranks, makespan {makespan_ms:.3f} ms, {bubble}"]
        for rank in range(self.n_ranks):
            compute_ms, send_ms, recv_ms = (self.busy_ms(rank, lane) for lane in ("compute", "send", "recv"))
            share = 100 * compute_ms / makespan_ms if makespan_ms else 0.0
            times = (
                f"compute {compute_ms:.3f} ms ({share:.1f} %), send {send_ms:.3f} ms, recv {recv_ms:.3f} ms"
            )
            lines.append(f"rank {rank}: {times}")
        return "\n".join(lines)

    def verify(self) -> None:
        """Check that every span is on a rank, and that no two of one lane overlap.

        Raises:
            ScheduleError: If a span is wrong by itself, on no rank, or overlaps the one before it on its
                lane.
        """
        lanes: dict[tuple[int, str], list[Span]] = defaultdict(list)
        for span in self.spans:
            span.verify()
            if span.rank >= self.n_ranks:
                raise ScheduleError(
                    f"{span.label} is on rank {span.rank} of {self.n_ranks}.", where=str(span)
                )
            lanes[span.rank, span.lane].append(span)
        for (rank, lane), spans in lanes.items():
            for before, after in pairwise(sorted(spans, key=lambda span: (span.start_ms, span.end_ms))):
                if after.start_ms < before.end_ms - _CLOCK_MS:
                    text = f"{before.label} and {after.label} overlap on the {lane} lane of rank {rank}."
                    raise ScheduleError(text, where=f"{before}\n{after}")

    def to_json(self) -> dict[str, Any]:
        """Return the timeline as a dict that ``from_json`` reads."""
        return {
            "n_ranks": self.n_ranks,
            "spans": [{**asdict(span), "op": span.op.value} for span in self.spans],
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Timeline:
        """Read a timeline from what ``to_json`` gave.

        Args:
            data: The dict.

        Returns:
            The timeline, not verified.
        """
        return cls(tuple(Span(**{**span, "op": Op(span["op"])}) for span in data["spans"]), data["n_ranks"])
