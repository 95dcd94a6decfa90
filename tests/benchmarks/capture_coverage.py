"""How many architectures of transformers, torchvision and timm train in 4 stages with the plain numbers.

Each is built small from its own config class and runs unsplit first, twice from one seed: what does not
run, or differs from itself, does not count. Then a 1F1B step of 4 stages and 4 microbatches must give the
loss and every gradient of the plain loop. A model that draws random numbers must equal itself in one stage
from the user's stream, and 4 stages must equal one stage. torch.distributed.pipelining gets the same model.

    python -m tests.benchmarks.capture_coverage [--kind "causal LM"] [--only NAME ...] [--results FILE]

=========  ==================================================================================
equal      loss and gradients are equal, in float32, or where rounding hides it in float64
explained  autopipe refused with an AutopipeError
raised     something else was raised, or it took too long
wrong      the numbers differ
=========  ==================================================================================

What ``--results`` already has is not judged again, so that a run can be cut off and go on.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import signal
import time
import traceback
import warnings
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import torch

from autopipe.errors import AutopipeError
from tests.benchmarks.coverage_peer import judge_peer
from tests.benchmarks.coverage_runs import N_STAGES, Bench, Numbers
from tests.benchmarks.coverage_table import Result, table, write_record
from tests.benchmarks.small_models import architectures, build_that_runs
from tests.benchmarks.vision_models import build_vision, families

LIMIT_S = 240


def judge(kind: str, name: str) -> Result:
    """Compare one architecture with itself, split."""
    try:
        vision = kind in ("torchvision", "timm")
        model, batch = build_vision(kind, name) if vision else build_that_runs(name, kind)
        bench = Bench(model, batch)
        plain = bench.whole(model)
        differs = plain.difference(bench.whole(model))
        loop = bench.loop()
    except Exception as error:
        return Result(kind, name, "does not run", _first_line(error))
    if differs or not torch.isfinite(plain.loss):
        return Result(kind, name, "differs from itself", differs or "loss is not finite")
    try:
        result = _judge_split(kind, name, bench, plain, loop)
        return _judge_rounding(result, bench) if result.verdict == "wrong" else result
    except AutopipeError as error:
        return Result(kind, name, "explained", str(error))
    except Exception as error:
        trace = traceback.extract_tb(error.__traceback__)
        ours = [f"{Path(frame.filename).name}:{frame.lineno}" for frame in trace][-4:]
        return Result(kind, name, "raised", f"{_first_line(error)} {' '.join(ours)}")


def _judge_split(kind: str, name: str, bench: Bench, plain: Numbers, loop: Numbers) -> Result:
    is_random = bench.is_random()
    start = time.process_time()
    pipe = bench.split(N_STAGES)
    split_s = time.process_time() - start
    traced = pipe._staged.traced
    if is_random:
        one = bench.split(1)
        whole, expected = bench.whole(one), bench.step(one)
    else:
        whole, expected = bench.whole(pipe), loop
    note = plain.distance(whole)
    note = f"called whole: {note}" if note else expected.distance(bench.step(pipe))
    opaque = [info.opaque_because for info in traced.info.values() if info.opaque_because]
    return Result(
        kind,
        name,
        "wrong" if note else "equal",
        note or ", ".join(dict.fromkeys(opaque)),
        len(opaque),
        not plain.difference(whole),
        is_random,
        round(split_s, 2),
    )


def _judge_rounding(result: Result, bench: Bench) -> Result:
    """Ask float64 whether a difference is rounding alone: what is lost or misplaced stays there."""
    double = bench.in_double()
    again = _judge_split(result.kind, result.name, double, double.whole(double.model), double.loop())
    if again.verdict == "wrong":
        return result
    return replace(result, verdict="equal", note=f"equal in float64; in float32 the {result.note}")


def judge_by_peer(kind: str, name: str) -> Result:
    """What torch.distributed.pipelining makes of the same model."""
    vision = kind in ("torchvision", "timm")
    model, batch = build_vision(kind, name) if vision else build_that_runs(name, kind)
    try:
        bench = Bench(model, batch)
        verdict, note = judge_peer(bench)
        if verdict == "wrong":  # unless it is rounding alone
            verdict, note = min((verdict, note), judge_peer(bench.in_double()), key=lambda v: v[0] != "equal")
    except Exception as error:
        verdict, note = "raised", _first_line(error)
    return Result(kind, name, verdict, note)


def _first_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]}"[:300]


def in_a_child(run: Callable[[str, str], Result], kind: str, name: str) -> Result:
    """Judge in a forked process, so that neither a crash nor a hang ends the run."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        signal.setitimer(signal.ITIMER_PROF, LIMIT_S)
        signal.alarm(5 * LIMIT_S)
        os.close(reader)
        with os.fdopen(os.open(os.devnull, os.O_WRONLY), "w") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        result = run(kind, name)
        os.write(writer, json.dumps(asdict(result)).encode()[:60000])
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as stream:
        text = stream.read()
    _, status = os.waitpid(child, 0)
    if not text:
        return Result(kind, name, "raised", f"the process ended with status {status}")
    return Result(**json.loads(text))


def judged(kind: str, name: str, known: Result | None, with_peer: bool) -> Result:
    """Judge one architecture, split by autopipe and by torch, or what of it is not known yet."""
    result = known or in_a_child(judge, kind, name)
    if not with_peer or not result.is_counted or result.peer:
        return result
    peer = in_a_child(judge_by_peer, kind, name)
    return replace(result, peer=peer.verdict, peer_note=peer.note)


def main() -> None:
    """Judge everything asked for, print the table and write the record."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--kind")
    parser.add_argument("--only", nargs="*", default=[])
    parser.add_argument("--every", type=int, default=1, help="judge one in so many")
    parser.add_argument("--offset", type=int, default=0, help="of the first one judged")
    parser.add_argument("--results", type=Path, help="JSON lines: what is known, and where to add to it")
    parser.add_argument(
        "--without-peer", action="store_true", help="leave torch's pipelining for a later run"
    )
    parser.add_argument("--minutes", type=float, default=float("inf"), help="judge no more after so many")
    parser.add_argument("--record", action="store_true")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    torch.set_num_threads(1)
    vision = list(families())
    every = [*((kind, name) for kind, _, name in architectures()), *vision]
    wanted = [(kind, name) for kind, name in every if options.kind in (None, kind)]
    wanted = [(kind, name) for kind, name in wanted if not options.only or name in options.only]
    known = read_results(options.results)
    deadline = time.monotonic() + 60 * options.minutes
    for kind, name in wanted[options.offset :: options.every]:
        if time.monotonic() >= deadline:
            break
        before = known.get((kind, name))
        result = known[kind, name] = judged(kind, name, before, not options.without_peer)
        if result == before:
            continue
        if options.results:
            with options.results.open("a") as file:
                file.write(json.dumps(asdict(result)) + "\n")
        print(
            f"{result.verdict:<20} {result.peer:<8} {kind:<20} {name:<45} {result.split_s:>6} s  "
            f"{result.note[:400]}",
            flush=True,
        )
    results = [known[key] for key in wanted if key in known]
    print(table(results))
    if options.record:
        write_record(results, len(wanted))


def read_results(path: Path | None) -> dict[tuple[str, str], Result]:
    """Read what earlier runs found; of several lines on one architecture the last counts."""
    if path is None or not path.exists():
        return {}
    results = [Result(**json.loads(line)) for line in path.read_text().splitlines()]
    return {(result.kind, result.name): result for result in results}


if __name__ == "__main__":
    main()
