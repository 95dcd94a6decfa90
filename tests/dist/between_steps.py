"""Cases for a crew: the user's own messages on the group that an engine was given."""

from __future__ import annotations

import torch
import torch.distributed as dist

from tests.dist.crossing import judge, split


def users_messages_wait_through_steps(rank: int) -> list[float]:
    """Return what the user's messages brought: they begin before the steps, and end after the engine.

    Whatever the engine sent over the user's communicator would come to the receive that is posted, or be
    added up by the collective, which one rank begins before its steps and the other after.
    """
    group = dist.new_group([0, 1])
    arriving, total, peer = torch.zeros(3), torch.tensor([1.0 + rank]), 1 - rank
    waiting = dist.irecv(arriving, src=peer, group=group)
    summing = dist.all_reduce(total, group=group, async_op=True) if rank == 0 else None
    n_collectives = group._get_sequence_number_for_group()
    with split().engine(group=group, n_microbatches=3, timeout_s=20) as engine:
        for _ in range(2):
            engine.step(torch.ones(5, 4), loss_fn=judge)
        engine.clip_grad_norm_(1.0)
    assert group._get_sequence_number_for_group() == n_collectives
    split().model.zero_grad()
    summing = summing or dist.all_reduce(total, group=group, async_op=True)
    sending = dist.isend(torch.full((3,), 10.0 + rank), dst=peer, group=group)
    for each in (waiting, summing, sending):
        each.wait()
    return [*arriving.tolist(), float(total)]


def users_collectives_between_steps(rank: int) -> list[float]:
    """Return the losses of some steps, each summed over the ranks by the user's own collective."""
    sums = []
    with split().engine(group=dist.group.WORLD, n_microbatches=3, timeout_s=20, seed=0) as engine:
        for step in range(3):
            loss = engine.step(torch.full((5, 4), 1.0 + step), loss_fn=judge).loss
            dist.all_reduce(loss)
            sums.append(float(loss))
            dist.barrier()
    split().model.zero_grad()
    return sums
