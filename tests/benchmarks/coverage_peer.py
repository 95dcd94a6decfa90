"""The same model by torch.distributed.pipelining: exported, cut at its blocks, 1F1B over gloo processes.

It is given every help: positional arguments only, a model that returns nothing but its loss, no dropout, and
where that fails the logits instead, with the loss in the last stage. What it gives is compared with the
plain loop of that same model.
"""

from __future__ import annotations

import os
import signal
import tempfile
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.pipelining import Schedule1F1B, SplitPoint, pipeline

from tests.benchmarks.coverage_runs import N_MICROBATCHES, N_STAGES, Bench, Numbers
from tests.benchmarks.small_batches import loss_of

LIMIT_S = 60


class Positional(nn.Module):
    """The model, called with tensors alone, returning one tensor.

    Args:
        model: The model.
        names: Of its arguments, in order.
        rest: Its arguments that are no tensors.
        choose: Takes from the output what is returned.
    """

    def __init__(
        self,
        model: nn.Module,
        names: list[str],
        rest: dict[str, Any],
        choose: Callable[[Any], torch.Tensor],
    ) -> None:
        super().__init__()
        self.model, self._names, self._rest, self._choose = model, names, rest, choose

    def forward(self, *tensors: torch.Tensor) -> torch.Tensor:
        """Call the model."""
        given = dict(zip(self._names, tensors, strict=True))
        return self._choose(self.model(**given, **self._rest))


def judge_peer(bench: Bench) -> tuple[str, str]:
    """Return a verdict ("equal", "raised" or "wrong") and what was seen."""
    without_dropout(bench.model)
    verdict, note = _judged(bench, lambda out: loss_of(out).reshape(1), torch.sum)
    if verdict != "equal" and "labels" in bench.batch:
        batch = {name: value for name, value in bench.batch.items() if name != "labels"}
        try:
            again = _judged(Bench(bench.model, batch), loss_of_logits, lambda out: out.float().pow(2).mean())
        except Exception:
            return verdict, note
        verdict, note = min((verdict, note), again, key=lambda found: found[0] != "equal")
    return verdict, note


def loss_of_logits(out: Any) -> torch.Tensor:
    """Return the logits, or the first of what a model returns."""
    first: torch.Tensor = (
        out["logits"] if isinstance(out, dict) else out[0] if isinstance(out, tuple) else out
    )
    return first


def without_dropout(model: nn.Module) -> None:
    """Set every probability to drop something to 0: nobody can reproduce one stream of numbers in pieces."""
    for module in model.modules():
        for name, value in vars(module).items():
            if isinstance(value, float) and (
                "drop" in name or (isinstance(module, nn.Dropout) and name == "p")
            ):
                setattr(module, name, 0.0)


def _judged(
    bench: Bench, choose: Callable[[Any], torch.Tensor], loss_fn: Callable[[torch.Tensor], torch.Tensor]
) -> tuple[str, str]:
    tensors = {name: value for name, value in bench.batch.items() if isinstance(value, torch.Tensor)}
    rest = {name: value for name, value in bench.batch.items() if name not in tensors}
    model = Positional(bench.model, list(tensors), rest, choose)
    plain = Bench(model, {})

    def loop() -> torch.Tensor:
        losses = []
        for microbatch in bench.microbatches():
            loss = loss_fn(model(*(microbatch[name] for name in tensors))) / N_MICROBATCHES
            loss.backward()
            losses.append(loss.detach())
        return torch.stack(losses).sum()

    expected = plain.numbers(loop)
    example = tuple(bench.microbatches()[0][name] for name in tensors)
    try:
        points = split_points(model, example)
        if not points:
            return "raised", "no module to cut at"
        pipe = pipeline(model, example, split_spec=dict.fromkeys(points, SplitPoint.BEGINNING))
    except Exception as error:
        return "raised", "capture: " + first_cause(error)
    finally:
        without_split_points(model)
    found = _stepped(pipe, tuple(tensors.values()), loss_fn)
    if isinstance(found, str):
        return "raised", found
    difference = expected.distance(found)
    return ("wrong", difference) if difference else ("equal", "")


def without_split_points(model: nn.Module) -> None:
    """Take back what ``pipeline`` does to the modules: a second call of it would recurse for ever."""
    for module in model.modules():
        if "_orig_forward" in vars(module):
            del module._orig_forward
            del module.forward


def split_points(model: nn.Module, example: tuple[torch.Tensor, ...]) -> list[str]:
    """Choose up to three blocks to cut in front of, with about as many parameters in each stage."""
    called: list[str] = []
    handles = [
        module.register_forward_pre_hook(lambda _module, _args, name=name: called.append(name))
        for name, module in model.named_modules()
    ]
    with torch.no_grad():
        model(*example)
    for handle in handles:
        handle.remove()
    lists = [
        name for name, module in model.named_modules() if isinstance(module, nn.ModuleList | nn.Sequential)
    ]
    once = [name for name in called if called.count(name) == 1 and name]
    blocks = [name for name in once if name.rpartition(".")[0] in lists] or once
    outer = [name for name in blocks if not any(name.startswith(f"{other}.") for other in blocks)]
    weights = [sum(p.numel() for p in model.get_submodule(name).parameters()) for name in outer]
    total, before, points = sum(weights), 0, list[str]()
    for name, weight in zip(outer, weights, strict=True):
        if before and before >= total * (len(points) + 1) / N_STAGES and len(points) < N_STAGES - 1:
            points.append(name)
        before += weight
    return points


def _stepped(
    pipe: Any, arguments: tuple[torch.Tensor, ...], loss_fn: Callable[[torch.Tensor], torch.Tensor]
) -> Numbers | str:
    """Run one step on as many processes as there are stages; return the numbers, or what was raised."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        children = [_child(rank, pipe, arguments, loss_fn, folder) for rank in range(pipe.num_stages)]
        waiting, deadline = set(children), time.monotonic() + LIMIT_S
        while waiting and time.monotonic() < deadline:
            done = {pid for pid in waiting if os.waitpid(pid, os.WNOHANG)[0]}
            waiting -= done
            if any(folder.glob("*.txt")):
                break
            time.sleep(0.02)
        for pid in waiting:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        failed = sorted((file.read_text() for file in folder.glob("*.txt")), key=_is_echo)
        if failed:
            return "step: " + failed[0]
        parts = [folder / f"{rank}.pt" for rank in range(pipe.num_stages)]
        if not all(part.exists() for part in parts):
            return "step: a process ended, or hung"
        found = [torch.load(part) for part in parts]
    grads: dict[str, torch.Tensor | None] = {}
    for part in found:
        grads |= {name: grad for name, grad in part["grads"].items() if grads.get(name) is None}
    return Numbers(found[-1]["loss"], grads)


def _is_echo(message: str) -> bool:
    """Whether a process only noticed that another one had failed."""
    return "Connection" in message or "timed out" in message.lower()


def _child(
    rank: int,
    pipe: Any,
    arguments: tuple[torch.Tensor, ...],
    loss_fn: Callable[[torch.Tensor], torch.Tensor],
    folder: Path,
) -> int:
    pid = os.fork()
    if pid:
        return pid
    try:
        limit = timedelta(seconds=LIMIT_S)
        dist.init_process_group(
            "gloo", init_method=f"file://{folder}/store", rank=rank, world_size=pipe.num_stages, timeout=limit
        )
        stage = pipe.build_stage(rank, torch.device("cpu"))
        schedule = Schedule1F1B(stage, N_MICROBATCHES, loss_fn=lambda out, _target: loss_fn(out))
        losses: list[torch.Tensor] = []
        is_last = rank == pipe.num_stages - 1
        target: dict[str, Any] = (
            {"target": torch.zeros(len(arguments[0])), "losses": losses} if is_last else {}
        )
        schedule.step(**root_arguments(pipe, stage, arguments), **target)
        grads = {name: p.grad for name, p in stage.submod.named_parameters()}
        loss = torch.stack(losses).mean().detach() if is_last else torch.zeros(())
        torch.save({"grads": grads, "loss": loss}, folder / f"{rank}.partial")
        (folder / f"{rank}.partial").rename(folder / f"{rank}.pt")
    except BaseException as error:
        (folder / f"{rank}.txt").write_text(first_cause(error))
    os._exit(0)


def root_arguments(pipe: Any, stage: Any, arguments: tuple[torch.Tensor, ...]) -> dict[str, Any]:
    """Return what a stage reads of the model's own arguments, by the names that it has there."""
    roots = [node for node in pipe.split_gm.graph.nodes if node.op == "placeholder"]
    value = dict(zip(roots, arguments, strict=True))
    inside = [node.name for node in stage.submod.graph.nodes if node.op == "placeholder"]
    return {name: value[node] for name, node in zip(inside, stage.node.args, strict=True) if node in value}


def first_cause(error: BaseException) -> str:
    """The first line of what was raised first."""
    while error.__cause__ is not None:
        error = error.__cause__
    return first_line(error)


def first_line(error: BaseException) -> str:
    """The class of an error and the first line of its message."""
    return f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]}"[:300]
