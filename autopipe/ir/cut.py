"""Where a plan cuts, in terms that hold for every capture of the model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Cut:
    """Where every node runs, by its key.

    Args:
        n_stages: How many stages; some may be empty.
        stage_of_key: Stage by node key.
        recomputed: Keys of nodes whose value each reading stage computes for itself.

    Example:
        >>> print(Cut(2, {"a|@a|0": 0, "b|@b|0": 1}))
        2 nodes in 2 stages
    """

    n_stages: int
    stage_of_key: Mapping[str, int] = field(hash=False)
    recomputed: frozenset[str] = frozenset()

    def verify(self) -> None:
        """Check that every stage is one of them, and that what is recomputed has one; else a bug."""
        wrong = [key for key, stage in self.stage_of_key.items() if not 0 <= stage < self.n_stages]
        assert not wrong, f"{wrong[0]} is in stage {self.stage_of_key[wrong[0]]} of {self.n_stages}"
        unknown = self.recomputed - self.stage_of_key.keys()
        assert not unknown, f"{min(unknown)} is recomputed but has no stage"

    def __str__(self) -> str:
        """Print the numbers."""
        again = f", {len(self.recomputed)} of them where they are read" if self.recomputed else ""
        return f"{len(self.stage_of_key)} nodes in {self.n_stages} stages{again}"
