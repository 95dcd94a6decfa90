"""The schedules of an engine: one for every number of microbatches that comes up, built once."""

from __future__ import annotations

from autopipe.errors import ArgumentError
from autopipe.ir.schedule import Schedule, Transfer
from autopipe.schedule import build, forward_only, insert_comms


class Schedules:
    """Builds schedules and keeps them.

    Args:
        named: Name of a schedule, or one of the user's own, without comms.
        n_stages: Stages of the pipeline.
        n_ranks: Ranks that share the stages; None: one a stage.
    """

    def __init__(self, named: str | Schedule, n_stages: int, n_ranks: int | None) -> None:
        """Start with none built."""
        self._named, self._n_stages, self._n_ranks = named, n_stages, n_ranks
        self._built: dict[tuple[int, bool, tuple[Transfer, ...]], Schedule] = {}

    def computes(self, n_microbatches: int) -> Schedule:
        """Return the schedule without messages.

        Raises:
            ArgumentError: If the name is unknown, or if the user's own schedule is for other numbers.
        """
        if isinstance(self._named, str):
            return build(self._named, self._n_stages, n_microbatches, self._n_ranks)
        if (self._named.n_stages, self._named.n_microbatches) != (self._n_stages, n_microbatches):
            raise ArgumentError(
                f"{self._named!r} was given for {self._n_stages} stages and {n_microbatches} microbatches.",
                remedy='schedule="1f1b", which is built for any number',
            )
        return self._named

    def with_messages(
        self, n_microbatches: int, transfers: tuple[Transfer, ...], *, trains: bool
    ) -> Schedule:
        """Return the schedule that is run; without training it has forwards only."""
        key = (n_microbatches, trains, transfers)
        if key not in self._built:
            computes = self.computes(n_microbatches)
            self._built[key] = insert_comms(computes if trains else forward_only(computes), transfers)
        return self._built[key]
