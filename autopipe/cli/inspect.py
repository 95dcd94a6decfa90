"""``autopipe inspect``: what a model costs, module by module, before it is cut."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Annotated, Any

import typer

from autopipe.cli import options
from autopipe.cli.command import as_json
from autopipe.cli.legal_cuts import LegalCuts, count_legal_cuts
from autopipe.cli.making import Making
from autopipe.cli.model_source import ModelSource
from autopipe.cli.module_costs import ModuleCost, module_costs, whole_cost
from autopipe.ir.plan import Plan
from autopipe.view.names import fit
from autopipe.view.units import format_bytes, time_unit

_NAMES = 36  # characters of the modules' column, at most


def inspect(  # noqa: PLR0913, PLR0917 - a parameter an option
    model: options.Model,
    example: options.Example = None,
    settings: options.Settings = None,
    batch: options.Batch = None,
    length: options.Length = None,
    meta: options.Meta = False,
    hardware: options.Hardware = None,
    cost: options.Cost = "roofline",
    opaque: options.Opaque = None,
    depth: Annotated[
        int | None,
        typer.Option(
            "--depth", min=1, metavar="N", help="Names of an FQN that tell rows apart (its first number)."
        ),
    ] = None,
    json: options.Json = False,
    debug: options.Debug = False,
) -> str:
    """Show what each module of a model costs, and how many legal cuts there are."""
    source = ModelSource(model, example, tuple(settings or ()), batch, length, meta)
    plan = Making(source, hardware, cost, tuple(opaque or ())).plan(1)
    rows, cuts, most = module_costs(_graph(plan), depth), *_cuts(plan)
    if json:
        return as_json(_data(plan, rows, cuts, most))
    return _text(plan, rows, cuts, most)


def _graph(plan: Plan) -> Any:
    assert plan.cost_graph is not None
    return plan.cost_graph


def _cuts(plan: Plan) -> tuple[LegalCuts, int]:
    """How many cuts there are, and how many stages at most."""
    from autopipe.partition import Objective, compile_problem

    problem = compile_problem(Objective(_graph(plan), plan.hardware, 1))
    return count_legal_cuts(problem.preds), problem.n


def _data(plan: Plan, rows: Sequence[ModuleCost], cuts: LegalCuts, most: int) -> dict[str, Any]:
    whole = asdict(whole_cost(_graph(plan)))
    del whole["module"], whole["out_bytes"]
    return {
        "model": plan.fingerprint.model,
        "hardware": plan.hardware.name,
        "cost_source": plan.cost_source,
        "sizes": dict(plan.sizes),
        **whole,
        "legal_cuts": cuts.n,
        "legal_cuts_is_exact": cuts.is_exact,
        "most_stages": most,
        "notes": list(plan.notes),
        "modules": [asdict(row) for row in rows],
    }


def _text(plan: Plan, rows: Sequence[ModuleCost], cuts: LegalCuts, most: int) -> str:
    whole = whole_cost(_graph(plan))
    unit, unit_ms = time_unit(max(max(row.fwd_ms, row.bwd_ms) for row in rows))
    heads = ["nodes", f"fwd {unit}", f"bwd {unit}", "params", "saved", "output"]
    names = [fit(row.module or f"({plan.fingerprint.model} itself)", _NAMES) for row in rows]
    cells = [_cells(row, unit_ms) for row in (*rows, whole)]
    sizes = [max(len(line[column]) for line in (heads, *cells)) for column in range(len(heads))]
    width = max(len(name) for name in [*names, "module"])
    lines = [_line("module", heads, sizes, width)]
    lines += [_line(name, line, sizes, width) for name, line in zip([*names, "total"], cells, strict=True)]
    lines.append(
        f" legal cuts: {cuts}   stages: {most} at most   costs: {plan.cost_source}, {plan.hardware.name}"
    )
    lines += [f" note: {note}" for note in plan.notes]
    return "\n".join(lines)


def _cells(row: ModuleCost, unit_ms: float) -> list[str]:
    sizes = (row.param_bytes, row.saved_bytes, row.out_bytes)
    times = [f"{row.fwd_ms / unit_ms:.1f}", f"{row.bwd_ms / unit_ms:.1f}"]
    return [str(row.n_nodes), *times, *(format_bytes(size) if size else "-" for size in sizes)]


def _line(name: str, cells: Sequence[str], sizes: Sequence[int], width: int) -> str:
    numbers = [cell.rjust(size) for cell, size in zip(cells, sizes, strict=True)]
    return "  ".join([f" {name:<{width}}", *numbers])
