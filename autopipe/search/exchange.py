"""What replicas of a stage pay for agreeing on their gradients."""

from __future__ import annotations

from autopipe.ir.hardware import Link


def all_reduce_ms(nbytes: float, n_replicas: int, link: Link) -> float:
    """Time of adding up as many gradients among replicas that are joined by equal links.

    ::

        ring of r:  r - 1 rounds add up, r - 1 rounds hand out, each moves nbytes / r over every link

    Args:
        nbytes: Bytes of the gradients.
        n_replicas: r.
        link: Joins each replica to the next.

    Returns:
        Milliseconds; 0 for one replica.

    Source: Patarasuk and Yuan, Bandwidth optimal all-reduce algorithms, JPDC 2009: no algorithm moves less.

    Example:
        >>> all_reduce_ms(1_000_000, 4, Link("wire", 1e9, 0.5, "an example"))
        4.5
    """
    rounds = 2 * (n_replicas - 1)
    return rounds * link.transfer_ms(nbytes / n_replicas) if n_replicas > 1 else 0.0
