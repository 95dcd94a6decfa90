"""A plan in few words, as JSON: what its summary says."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from autopipe.ir.plan import Plan


def plan_digest(plan: Plan) -> dict[str, Any]:
    """Return what a summary shows of a plan.

    Args:
        plan: The plan, in either form.

    Returns:
        Plain data: model, costs and modules of each stage, certificate with gap, baselines, predictions.
    """
    certificate = plan.partition.certificate
    stages = zip(plan.partition.stages, plan.partition.rank_of_stage, plan.fqns, strict=True)
    return {
        "model": plan.fingerprint.model,
        "fingerprint": plan.fingerprint.digest,
        "hardware": plan.hardware.name,
        "cost_source": plan.cost_source,
        "sizes": dict(plan.sizes),
        "schedule": plan.schedule.name,
        "n_microbatches": plan.schedule.n_microbatches,
        "stages": [{**asdict(cost), "rank": rank, "fqns": list(fqns)} for cost, rank, fqns in stages],
        "certificate": {**asdict(certificate), "gap": certificate.gap},
        "baselines": dict(plan.baselines),
        "predictions": dict(plan.predictions),
        "notes": list(plan.notes),
    }
