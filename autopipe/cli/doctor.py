"""``autopipe doctor``: what the capture of a model could not see through, and what it fixed."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

from autopipe.cli import options
from autopipe.cli.command import as_json
from autopipe.cli.making import model_runs
from autopipe.cli.model_source import ModelSource
from autopipe.progress import progress

if TYPE_CHECKING:
    from autopipe.cli.diagnosis import Finding
    from autopipe.ir.traced import TracedModel


def doctor(  # noqa: PLR0913, PLR0917 - a parameter an option
    model: options.Model,
    example: options.Example = None,
    settings: options.Settings = None,
    batch: options.Batch = None,
    length: options.Length = None,
    meta: options.Meta = False,
    json: options.Json = False,
    debug: options.Debug = False,
) -> str:
    """Say what the capture cannot see through, what it fixes to the example, and what would help."""
    source = ModelSource(model, example, tuple(settings or ()), batch, length, meta)
    loaded = source.load()
    from autopipe.cli.diagnosis import arguments, findings
    from autopipe.trace import capture

    with model_runs(source.spec), progress(None) as say:
        say("capturing the model")
        traced = capture(loaded.model, loaded.args, loaded.kwargs)
    name = type(loaded.model).__name__
    taken, found = arguments(loaded.model, traced), findings(traced)
    if not json:
        return _text(name, traced, taken, found)
    return as_json(
        {
            "model": name,
            "n_nodes": len(traced.compute_nodes()),
            "arguments": [{"name": argument, "tensor": tensor} for argument, tensor in taken],
            "findings": [asdict(finding) for finding in found],
        }
    )


def _text(name: str, traced: TracedModel, taken: list[tuple[str, str]], found: list[Finding]) -> str:
    leaves = len(traced.modules)
    lines = [f"{name}: captured as {len(traced.compute_nodes())} nodes, {leaves} modules kept whole"]
    lines += [f" {argument}: {_times(tensors)}" for argument, tensors in _by_argument(taken).items()]
    open_sizes = [size for size in traced.sizes if size not in traced.derived_sizes]
    lines.append(f" open sizes: {', '.join(open_sizes) or 'none'}")
    lines += [str(finding) for finding in found] or [" nothing stands in the way of a split"]
    return "\n".join(lines)


def _by_argument(taken: list[tuple[str, str]]) -> dict[str, list[str]]:
    """Argument -> its tensors, of which one that is a dict or a tuple has many."""
    tensors: dict[str, list[str]] = {}
    for argument, tensor in taken:
        tensors.setdefault(argument, []).append(tensor)
    return tensors


def _times(tensors: list[str]) -> str:
    counts = {tensor: tensors.count(tensor) for tensor in tensors}
    return ", ".join(tensor if count == 1 else f"{count} x {tensor}" for tensor, count in counts.items())
