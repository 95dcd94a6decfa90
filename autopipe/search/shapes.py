"""Ways to lay devices out as stages x replicas, and a batch as replicas x microbatches x samples."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, order=True)
class Shape:
    """One layout.

    ::

        replica 0   stage 0 -- stage 1 -- stage 2      microbatch 0, 1, ... of its part of the batch
        replica 1   stage 0 -- stage 1 -- stage 2

    Args:
        n_stages: Devices in a row.
        n_replicas: Rows.
        n_microbatches: Of one row.
        samples: Of one microbatch.
    """

    n_stages: int
    n_replicas: int
    n_microbatches: int
    samples: int


def shapes_for(
    n_devices: int, n_samples: int, sizes: Iterable[int], n_stages: int | None = None
) -> Iterator[Shape]:
    """Go through the layouts of some devices for one batch.

    Every number of replicas with as many stages as then fit; a layout that another one only adds idle
    devices to is left out.

    Args:
        n_devices: Devices.
        n_samples: Samples of a step, all replicas together, nearly: every microbatch is as large as another.
        sizes: Samples of a microbatch that may be tried.
        n_stages: Only layouts of so many stages.

    Yields:
        Few stages first, then large microbatches.

    Example:
        >>> [(s.n_stages, s.n_replicas, s.n_microbatches) for s in shapes_for(6, 48, [2])]
        [(1, 6, 4), (2, 3, 8), (3, 2, 12), (6, 1, 24)]
    """
    largest = sorted(set(sizes), reverse=True)
    counts = [n_stages] if n_stages else sorted({n_devices // r for r in range(1, n_devices + 1)})
    for stages in counts:
        n_replicas = n_devices // stages
        for samples in largest:
            n_microbatches = round(n_samples / (n_replicas * samples))
            if n_microbatches >= 1:
                yield Shape(stages, n_replicas, n_microbatches, samples)
