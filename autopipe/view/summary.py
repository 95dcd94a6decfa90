"""The summary of a plan as plain text: what each stage costs, how good the cut is, what others would do.

Everything fits the width; where the terminal cannot print blocks, bars are made of ``#``.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from textwrap import wrap

from autopipe.ir.plan import Plan
from autopipe.view.module_span import module_spans
from autopipe.view.names import fit
from autopipe.view.units import format_bytes, format_ms, format_share, time_unit

__all__ = ["summary"]

_EIGHTHS = " ▏▎▍▌▋▊▉█"
_BAR = (5, 10)  # cells of a load bar, at least and at most
_NAMES = (7, 40)  # characters of the modules' column
_UNBROKEN = "\u00a0"  # a blank at which no line is broken
_MARKS = (" <- bottleneck", " <-")


def summary(plan: Plan, *, width: int = 80, ascii_only: bool | None = None) -> str:
    """Print a plan as a table with its certificate and the comparison with what others do.

    Args:
        plan: The plan, in either form.
        width: Columns, 60 or more.
        ascii_only: No character beyond ASCII; None: unless standard output can encode blocks.

    Returns:
        Lines without colours, each within the width. Times of a table share one unit; ``sends/mb`` is what
        the stage sends forward for one microbatch.
    """
    plain = not _can_print(_EIGHTHS) if ascii_only is None else ascii_only
    lines = [*_table(plan, width, plain), *_ranks(plan), *_verdict(plan, width), *_comparison(plan, width)]
    for note in [*_again(plan), *plan.notes]:
        lines += _wrapped(f"note: {note}", width)
    text = "\n".join(map(_printed, lines))
    return text.encode("ascii", "replace").decode("ascii") if plain else text


def _printed(line: str) -> str:
    """A name with a line break or an escape sequence must not reach the terminal as such."""
    return "".join(character if character.isprintable() else "?" for character in line)


def _can_print(characters: str) -> bool:
    try:
        characters.encode(getattr(sys.stdout, "encoding", None) or "ascii")
    except (UnicodeEncodeError, LookupError):
        return False
    return True


def _table(plan: Plan, width: int, plain: bool) -> list[str]:
    stages = plan.partition.stages
    unit, unit_ms = time_unit(max(max(s.fwd_ms, s.bwd_ms) for s in stages))
    digits = 1 if max(max(s.fwd_ms, s.bwd_ms) for s in stages) >= 5 * unit_ms else 2
    sends = [sum(link.nbytes for link in plan.transfers if link.src == s.index) for s in stages]
    heads = ["stage", f"fwd {unit}", f"bwd {unit}", "params", "sends/mb", "peak mem"]
    rows = [
        [
            str(s.index),
            f"{s.fwd_ms / unit_ms:.{digits}f}",
            f"{s.bwd_ms / unit_ms:.{digits}f}",
            format_bytes(s.param_bytes) if s.param_bytes else "-",
            format_bytes(sent) if sent else "-",
            format_bytes(s.memory_bytes),
        ]
        for s, sent in zip(stages, sends, strict=True)
    ]
    sizes = [max(len(row[column]) for row in [heads, *rows]) for column in range(len(heads))]
    spans = module_spans(plan)
    names, bar, mark = _shares(
        max(len(name) for name in ["modules", *(span.exact for span in spans)]),
        width - sum(sizes) - 2 * len(sizes) - 3,
    )
    longest_ms = max(s.total_ms for s in stages)
    lines = [_row(heads, "modules", sizes, names) + "  load"]
    slowest = [s.total_ms for s in stages].index(longest_ms)
    for stage, row, span in zip(stages, rows, spans, strict=True):
        load = stage.total_ms / longest_ms if longest_ms else 0.0
        line = (
            f"{_row(row, fit(span.exact, names, rougher=span.rough), sizes, names)}  {_bar(load, bar, plain)}"
        )
        lines.append(line + mark if stage.index == slowest else line.rstrip())
    return lines


def _shares(natural: int, room: int) -> tuple[int, int, str]:
    """Share what the numbers leave: first to the names, then to the bar, then to a mark in words."""
    words, arrow = _MARKS
    fewest, most = _BAR
    names = max(_NAMES[0], min(natural, _NAMES[1], room - fewest - len(arrow)))
    mark = words if room - names - fewest >= len(words) else arrow
    return names, max(fewest, min(most, room - names - len(mark))), mark


def _row(cells: Sequence[str], modules: str, sizes: Sequence[int], names: int) -> str:
    first, *rest = [cell.rjust(size) for cell, size in zip(cells, sizes, strict=True)]
    return "  ".join([f" {first}", modules.ljust(names), *rest])


def _bar(load: float, cells: int, plain: bool) -> str:
    if plain:
        return ("#" * max(1, round(load * cells))).ljust(cells) if load else " " * cells
    eighths = max(1, round(load * cells * 8)) if load else 0
    tail = _EIGHTHS[eighths % 8] if eighths % 8 else ""
    return (_EIGHTHS[8] * (eighths // 8) + tail).ljust(cells)


def _ranks(plan: Plan) -> list[str]:
    """Where ranks hold several stages, their memory adds up: one line a rank."""
    held: dict[int, list[int]] = {}
    for stage, rank in enumerate(plan.partition.rank_of_stage):
        held.setdefault(rank, []).append(stage)
    if len(held) == plan.n_stages:
        return []
    peak = {
        rank: sum(plan.partition.stages[stage].memory_bytes for stage in stages)
        for rank, stages in held.items()
    }
    return [
        f" rank {rank}: stages {', '.join(map(str, stages))}, peak mem {format_bytes(peak[rank])}"
        for rank, stages in sorted(held.items())
    ]


def _again(plan: Plan) -> Iterator[str]:
    """Say which stages run their forward twice; their column of the backward contains the second."""
    twice = plan.partition.running_twice
    if twice:
        which = f"stages {', '.join(map(str, twice))} keep" if len(twice) > 1 else f"stage {twice[0]} keeps"
        run = "run their forwards" if len(twice) > 1 else "runs its forward"
        yield f"to fit, {which} inputs only and {run} again in the backward"


def _verdict(plan: Plan, width: int) -> list[str]:
    certificate, schedule = plan.partition.certificate, plan.schedule
    parts = []
    if "step_ms" in plan.predictions:
        parts.append(f"step {format_ms(plan.predictions['step_ms'])} predicted")
    bound = f"lower bound {format_ms(certificate.lower_bound_ms)} (gap {format_share(certificate.gap)})"
    parts.append(f"bottleneck {format_ms(certificate.bottleneck_ms)}, {bound}")
    if certificate.objective == "step_time":
        least = f"lower bound {format_ms(certificate.step_time_bound_ms)}"
        gap = format_share(certificate.step_time_gap)
        parts.append(f"step time {format_ms(certificate.step_time_ms)}, {least} (gap {gap})")
    run = f"{schedule.name} x {schedule.n_microbatches} microbatches"
    if "bubble_fraction" in plan.predictions:
        run += f", bubble {format_share(plan.predictions['bubble_fraction'])}"
    parts.append(run)
    parts.append(f"costs: {plan.cost_source}, {plan.hardware.name}")
    return _packed(parts, width)


def _comparison(plan: Plan, width: int) -> list[str]:
    if not plan.baselines:
        return []
    ours_ms = plan.partition.certificate.bottleneck_ms
    others = [
        f"{name} {format_ms(other_ms)}{_more(other_ms, ours_ms)}".replace(" ", _UNBROKEN)
        for name, other_ms in plan.baselines.items()
    ]
    return _wrapped("compared with: " + ", ".join(others), width)


def _more(other_ms: float, ours_ms: float) -> str:
    if not ours_ms:
        return ""
    more = other_ms / ours_ms - 1
    return f" ({'+' if more >= 0 else ''}{format_share(more)})"


def _packed(parts: Sequence[str], width: int) -> list[str]:
    """Put parts on lines, three blanks between them, as many on a line as fit."""
    lines: list[str] = []
    for part in parts:
        if lines and len(lines[-1]) + 3 + len(part) <= width:
            lines[-1] += f"   {part}"
        else:
            lines += _wrapped(part, width)
    return lines


def _wrapped(sentence: str, width: int) -> list[str]:
    lines = wrap(sentence, width, initial_indent=" ", subsequent_indent="   ")
    return [line.replace(_UNBROKEN, " ") for line in lines]
