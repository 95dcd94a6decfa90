"""``autopipe show``: a saved plan as text and as pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from autopipe.cli import options
from autopipe.cli.command import as_json
from autopipe.cli.outputs import asked_for, writing
from autopipe.cli.plan_digest import plan_digest
from autopipe.ir.plan import Plan
from autopipe.progress import progress


def show(
    plan: options.PlanFile,
    html: Annotated[
        Path | None,
        typer.Option(
            "--html", metavar="FILE", help="Write one page with everything: graph, stages, timeline."
        ),
    ] = None,
    svg: Annotated[
        Path | None, typer.Option("--svg", metavar="FILE", help="Write the partition as a picture.")
    ] = None,
    dot: Annotated[
        Path | None, typer.Option("--dot", metavar="FILE", help="Write the partition for Graphviz.")
    ] = None,
    mmd: Annotated[
        Path | None,
        typer.Option("--mmd", metavar="FILE", help="Write the partition for Mermaid, which GitHub draws."),
    ] = None,
    json: options.Json = False,
    debug: options.Debug = False,
) -> str:
    """Print the summary of a saved plan, and draw it."""
    files = {"--html": html, "--svg": svg, "--dot": dot, "--mmd": mmd}
    pictures = asked_for(files, {option: option.replace("--", ".") for option in files})
    from autopipe.view import draw, summary

    with progress(None) as say:
        say(f"reading {plan}")
        loaded = Plan.load(plan)
        for path in pictures.values():
            say(f"drawing {path}")
            with writing(path):
                draw(loaded, path)
    return as_json(plan_digest(loaded)) if json else summary(loaded)
