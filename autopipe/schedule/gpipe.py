"""GPipe: all forwards, then all backwards (F-then-B).

::

    rank 0   0F0 0F1 0F2 0F3  .   .   .   .  0B0 0B1 0B2 0B3      4 microbatches in flight on every rank
    rank 1    .  1F0 1F1 1F2 1F3  .   .  1B0 1B1 1B2 1B3
    rank 2    .   .  2F0 2F1 2F2 2F3 2B0 2B1 2B2 2B3

Huang et al., GPipe, https://arxiv.org/abs/1811.06965 (its figure of the micro-batch pipeline).
"""

from __future__ import annotations

from autopipe.ir.schedule import Action, Op

__all__ = ["gpipe_row"]


def gpipe_row(stage: int, n_stages: int, n_microbatches: int) -> tuple[Action, ...]:
    """Return the row of one stage: every forward, then every backward, microbatches in order in both.

    Backwards go in the order of forwards, not reversed as in the paper's figure: the bubble is the same, and
    gradients are summed in the order of 1F1B and of a loop without a pipeline, so that all give the same
    bits.

    Args:
        stage: The stage.
        n_stages: Stages of the pipeline; the row is the same on each.
        n_microbatches: Microbatches of a step.

    Returns:
        ``[2 * n_microbatches]`` actions.

    Example:
        >>> print(*gpipe_row(1, n_stages=3, n_microbatches=2))
        1F0 1F1 1B0 1B1
    """
    del n_stages
    forwards = tuple(Action(stage, Op.F, microbatch) for microbatch in range(n_microbatches))
    return forwards + tuple(Action(stage, Op.B, microbatch) for microbatch in range(n_microbatches))
