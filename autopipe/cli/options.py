"""The options that several commands share, each with its help."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Model = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help="module:callable or path/to/file.py:callable, called to build the model; or the path of a "
        "transformers config.json, built without its weights.",
        show_default=False,
    ),
]
PlanFile = Annotated[
    Path,
    typer.Argument(metavar="PLAN", help="A file that `autopipe plan -o` wrote.", exists=True, dir_okay=False),
]
Example = Annotated[
    str | None,
    typer.Option(
        "--example",
        metavar="SPEC",
        help="module:callable that returns one microbatch: a tuple of arguments, a dict of keyword "
        "arguments, or (args, kwargs). Without it: the model's own (dummy_inputs, example_input_array), or "
        "one made from config.json.",
    ),
]
Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="NAME=VALUE",
        help="A keyword argument of the callables, or a field of config.json, such as --set n_layers=12. May "
        "be repeated. The example gets those that it takes.",
    ),
]
Batch = Annotated[
    int | None,
    typer.Option("--batch", min=1, metavar="N", help="Samples of one microbatch (config.json: 1)."),
]
Length = Annotated[
    int | None,
    typer.Option(
        "--length", min=1, metavar="N", help="Tokens of a sample (config.json: 2048, or the model's longest)."
    ),
]
Meta = Annotated[
    bool,
    typer.Option("--meta", help="Build the model without memory for its weights, whatever its size."),
]
Hardware = Annotated[
    str | None,
    typer.Option(
        "--hardware",
        metavar="NAME|FILE",
        help="What it will run on: a device (cpu, a100, h100, h200), a device and the link between stages "
        "(h100+infiniband), or a .json file that describes it. Without it: where the model lies.",
    ),
]
Cost = Annotated[
    str,
    typer.Option(
        "--cost",
        metavar="KIND",
        help="roofline: FLOPs and bytes against the hardware. measured: run the model here and time it.",
    ),
]
Opaque = Annotated[
    list[str] | None,
    typer.Option(
        "--opaque", metavar="GLOB", help="Modules that run their own Python as one node. May be repeated."
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Write JSON instead of text.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]
