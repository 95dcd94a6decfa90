"""``autopipe simulate``: a saved plan's step on a clock, for any schedule and number of microbatches."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from autopipe.cli import options
from autopipe.cli.command import as_json
from autopipe.cli.outputs import asked_for, writing
from autopipe.ir.plan import Plan
from autopipe.progress import progress


def simulate(
    plan: options.PlanFile,
    microbatches: Annotated[
        int | None,
        typer.Option("--microbatches", min=1, metavar="N", help="Microbatches of a step (the plan's)."),
    ] = None,
    schedule: Annotated[
        str | None, typer.Option("--schedule", metavar="NAME", help="1f1b or gpipe (the plan's).")
    ] = None,
    trace: Annotated[
        Path | None,
        typer.Option("--trace", metavar="FILE", help="Write a Chrome trace, which ui.perfetto.dev opens."),
    ] = None,
    svg: Annotated[
        Path | None, typer.Option("--svg", metavar="FILE", help="Write the timeline as a picture.")
    ] = None,
    json: options.Json = False,
    debug: options.Debug = False,
) -> str:
    """Predict the training step of a saved plan: how long, how much of it idle, and what waits for what.

    With --json: the numbers of the step and of each rank. When each action runs is in --trace.
    """
    pictures = asked_for({"--trace": trace, "--svg": svg}, {"--trace": ".json", "--svg": ".svg"})
    from autopipe.schedule import build
    from autopipe.schedule.predict import predict
    from autopipe.view import draw_timeline, gantt_text

    with progress(None) as say:
        say(f"reading {plan}")
        loaded = Plan.load(plan)
        say("simulating the step")
        asked = build(
            schedule or loaded.schedule.name,
            loaded.n_stages,
            microbatches or loaded.schedule.n_microbatches,
            loaded.schedule.n_ranks,
        )
        timeline = predict(asked, loaded.partition, loaded.transfers, loaded.hardware)
        for path in pictures.values():
            say(f"drawing {path}")
            with writing(path):
                draw_timeline(timeline, path, title=f"{loaded.fingerprint.model}, {asked.name}")
    if not json:
        return gantt_text(timeline)
    return as_json(
        {
            "schedule": asked.name,
            "n_microbatches": asked.n_microbatches,
            "step_ms": timeline.makespan_ms,
            "bubble_fraction": timeline.bubble_fraction,
            "busy_ms": [timeline.busy_ms(rank) for rank in range(timeline.n_ranks)],
            "n_spans": len(timeline.spans),
        }
    )
