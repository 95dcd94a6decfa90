"""1F1B: one forward, one backward, so that memory does not grow with the number of microbatches.

::

             warmup      steady          cooldown
    rank 0   0F0 0F1 0F2  .   .  0B0 0F3 0B1  .  0B2  .  0B3      at most 3 microbatches in flight
    rank 1    .  1F0 1F1  .  1B0 1F2 1B1 1F3 1B2  .  1B3          2
    rank 2    .   .  2F0 2B0 2F1 2B1 2F2 2B2 2F3 2B3              1

Narayanan et al., PipeDream, https://arxiv.org/abs/1806.03377 (1F1B, "Work scheduling"); with a flush at the
end of the step as in Memory-Efficient Pipeline-Parallel DNN Training, https://arxiv.org/abs/2006.09503
(PipeDream-Flush).
"""

from __future__ import annotations

from autopipe.ir.schedule import Action, Op

__all__ = ["one_f_one_b_row"]


def one_f_one_b_row(stage: int, n_stages: int, n_microbatches: int) -> tuple[Action, ...]:
    """Return the row of one stage: warmup forwards, backward and forward in turn, the backwards left.

    Args:
        stage: The stage.
        n_stages: Stages of the pipeline; ``min(n_microbatches, n_stages - stage)`` microbatches are in
            flight.
        n_microbatches: Microbatches of a step.

    Returns:
        ``[2 * n_microbatches]`` actions.

    Example:
        >>> print(*one_f_one_b_row(1, n_stages=3, n_microbatches=4))
        1F0 1F1 1B0 1F2 1B1 1F3 1B2 1B3
    """
    n_warmup = min(n_microbatches, n_stages - stage)
    row = [Action(stage, Op.F, microbatch) for microbatch in range(n_warmup)]
    for microbatch in range(n_microbatches):
        row.append(Action(stage, Op.B, microbatch))
        if n_warmup + microbatch < n_microbatches:
            row.append(Action(stage, Op.F, n_warmup + microbatch))
    return tuple(row)
