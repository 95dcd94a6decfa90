"""``autopipe plan``: where to cut a model, and why there."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer

from autopipe.cli import options
from autopipe.cli.command import as_json
from autopipe.cli.making import Making
from autopipe.cli.model_source import ModelSource
from autopipe.cli.outputs import asked_for, writing
from autopipe.cli.settings import parse_settings
from autopipe.errors import ArgumentError


def plan(  # noqa: PLR0913, PLR0917 - a parameter an option
    model: options.Model,
    stages: Annotated[
        int | None,
        typer.Option(
            "--stages",
            "-s",
            min=1,
            metavar="N",
            help="How many stages; chosen if --devices is given instead.",
        ),
    ] = None,
    devices: Annotated[
        int | None,
        typer.Option(
            "--devices",
            min=1,
            metavar="N",
            help="Choose stages, replicas, microbatches and schedule for so many devices.",
        ),
    ] = None,
    example: options.Example = None,
    settings: options.Settings = None,
    batch: options.Batch = None,
    length: options.Length = None,
    meta: options.Meta = False,
    ranks: Annotated[
        int | None,
        typer.Option("--ranks", min=1, metavar="N", help="Processes that share the stages (one a stage)."),
    ] = None,
    microbatches: Annotated[
        int | None,
        typer.Option("--microbatches", min=1, metavar="N", help="Microbatches of a step (four a stage)."),
    ] = None,
    schedule: Annotated[
        str | None,
        typer.Option(
            "--schedule",
            metavar="NAME",
            help="1f1b (without --devices the default), gpipe, or auto: the faster.",
        ),
    ] = None,
    hardware: options.Hardware = None,
    cost: options.Cost = "roofline",
    memory_limit: Annotated[
        str | None,
        typer.Option("--memory-limit", metavar="SIZE", help="What one rank may hold: 16GiB, or bytes."),
    ] = None,
    keep_together: Annotated[
        list[str] | None,
        typer.Option("--keep-together", metavar="GLOB", help="No cut falls inside a match. May be repeated."),
    ] = None,
    same_stage: Annotated[
        list[str] | None,
        typer.Option(
            "--same-stage",
            metavar="GLOB,GLOB",
            help="What these match shares one stage. May be repeated, for another group.",
        ),
    ] = None,
    opaque: options.Opaque = None,
    pin: Annotated[
        list[str] | None,
        typer.Option(
            "--pin",
            metavar="GLOB=STAGE",
            help="What this matches is in that stage; -1 is the last. May be repeated.",
        ),
    ] = None,
    objective: Annotated[
        str,
        typer.Option(
            "--objective",
            metavar="KIND",
            help="bottleneck: the slowest stage is to be fast. step_time: fill and drain count too.",
        ),
    ] = "bottleneck",
    device_order: Annotated[
        str,
        typer.Option(
            "--device-order",
            metavar="ORDER",
            help="given: devices that differ stay in the order of --hardware. best: try every order.",
        ),
    ] = "given",
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", metavar="FILE", dir_okay=False, help="Where to write the plan, as JSON."
        ),
    ] = None,
    json: options.Json = False,
    debug: options.Debug = False,
) -> str:
    """Split a model into stages: print what each costs and how good the split is, and save it."""
    pins = pins_from(pin or ())
    if stages is None and devices is None:
        raise ArgumentError("neither --stages nor --devices is given.", remedy="--stages 4, or --devices 8")
    asked_for({"--output": output}, {})
    source = ModelSource(model, example, tuple(settings or ()), batch, length, meta)
    made = Making(source, hardware, cost, tuple(opaque or ())).plan(
        stages,
        n_devices=devices,
        n_ranks=ranks,
        n_microbatches=microbatches,
        schedule=schedule,
        memory_limit=memory_limit,
        keep_together=tuple(keep_together or ()),
        same_stage=tuple(tuple(group.split(",")) for group in same_stage or ()),
        pin=pins,
        objective=objective,
        device_order=device_order,
    )
    if output is not None:
        with writing(output):
            made.save(output)
    if json:
        return as_json(made.to_json())
    from autopipe.view import summary

    if made.alternatives is None:
        return summary(made)
    return f"{summary(made)}\n\n{made.alternatives.table(_ROWS)}"


_ROWS = 12
"""Alternatives that are shown, the fastest first; all are in the plan."""


def pins_from(given: Iterable[str]) -> dict[str, int]:
    """Read ``--pin`` options.

    Args:
        given: Texts ``glob=stage``.

    Returns:
        Glob -> stage.

    Raises:
        ArgumentError: If a stage is no whole number.

    Example:
        >>> pins_from(["embed=0", "head=-1"])
        {'embed': 0, 'head': -1}
    """
    pins = parse_settings(given, "--pin", "GLOB=STAGE")
    for glob, stage in pins.items():
        if type(stage) is not int:
            raise ArgumentError(f"--pin: {glob!r} is pinned to {stage!r}.", remedy=f"--pin '{glob}=0'")
    return pins
