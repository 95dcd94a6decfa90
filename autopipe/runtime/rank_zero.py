"""The plan of rank 0, for ranks whose own measurements may have led to another one."""

from __future__ import annotations

import json

import torch.distributed as dist

from autopipe.ir.plan import Plan
from autopipe.runtime.peers import Peers


def plan_of_rank_zero(plan: Plan, group: dist.ProcessGroup, timeout_s: float) -> Plan:
    """Return the plan that rank 0 of a group made; every rank makes the same call.

    Args:
        plan: The plan that this rank made.
        group: The ranks of the plan.
        timeout_s: After how long a rank that does not come counts as lost.

    Returns:
        Rank 0's plan in its small form; this rank's own where both cut alike.

    Raises:
        ArgumentError: If the group is of another size.
        PlanMismatchError: If rank 0's plan is for another model.
        EngineError: If a rank does not come in time.
    """
    peers = Peers(group, plan.schedule.n_ranks, timeout_s)
    mine = json.dumps(plan.small().to_json()) if peers.rank == 0 else ""
    first = Plan.from_json(json.loads(peers.introduce(mine.encode(), "plan")[0]))
    first.check_model(plan.fingerprint, name="the plan of rank 0")
    return plan if first.cut == plan.cut and first.schedule == plan.schedule else first
