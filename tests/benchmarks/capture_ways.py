"""Four ways to capture a model as one graph, on models/ and on small transformers.

    python -m tests.benchmarks.capture_ways [--record]

A capture is right if, in train mode and from one seed, it returns the model's outputs bitwise and gives the
model's gradients; and it is open if it does the same for another batch size.
"""

from __future__ import annotations

import argparse
import os
import time
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from autopipe.ir.structure import Structure, map_tensors
from models import NAMES
from models.protocol import load

TRANSFORMERS = (
    *("LlamaForCausalLM", "GPT2LMHeadModel", "MixtralForCausalLM", "Qwen2MoeForCausalLM", "GemmaForCausalLM"),
    *("FalconForCausalLM", "BloomForCausalLM", "OPTForCausalLM", "GPTNeoXForCausalLM", "PhiForCausalLM"),
    *(
        "MambaForCausalLM",
        "DeepseekV3ForCausalLM",
        "BertForMaskedLM",
        "RobertaForMaskedLM",
        "AlbertForMaskedLM",
    ),
    *("DistilBertForMaskedLM", "ElectraForMaskedLM", "T5ForConditionalGeneration"),
    *("BartForConditionalGeneration", "PegasusForConditionalGeneration", "ViTForImageClassification"),
    "BeitForImageClassification",
)

Call = Callable[..., Any]
Way = Callable[[nn.Module, tuple[Any, ...], dict[str, Any]], Call]


def by_symbolic_trace(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Call:
    """Trace with torch.fx's proxies; arguments that are not given keep their defaults."""
    import inspect

    names = list(inspect.signature(model.forward).parameters.values())
    bound = inspect.signature(model.forward).bind(*args, **kwargs).arguments
    concrete = {p.name: p.default for p in names if p.name not in bound and p.default is not p.empty}
    return torch.fx.symbolic_trace(model, concrete_args=concrete)


def by_export(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Call:
    """torch.export, not strict, its batch left open."""
    automatic = torch.export.Dim.AUTO
    dims = torch.utils._pytree.tree_map(
        lambda leaf: {0: automatic} if isinstance(leaf, torch.Tensor) and leaf.dim() else None, (args, kwargs)
    )
    signature = _by_name(model, dims)
    program = torch.export.export(model, args, kwargs, dynamic_shapes=signature, strict=False)
    return program.module()


def _by_name(model: nn.Module, dims: tuple[Any, Any]) -> dict[str, Any]:
    import inspect

    found: dict[str, Any] = {}
    parameters = inspect.signature(model.forward).parameters.values()
    for name, value in inspect.signature(model.forward).bind(*dims[0], **dims[1]).arguments.items():
        kind = next(p.kind for p in parameters if p.name == name)
        found |= value if kind is inspect.Parameter.VAR_KEYWORD else {name: value}
    return found


def by_leaf_operators(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Call:
    """torch.export in which the call of every leaf is one opaque operator that runs the module itself."""
    LEAVES.clear()
    with _leaves_as_operators(model):
        called = by_export(model, args, kwargs)
    return called


LEAVES: list[tuple[nn.Module, Structure, Structure]] = []


@torch.library.custom_op("autopipe_bench::leaf", mutates_args=())
def leaf(index: int, tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Run a leaf."""
    return _run_leaf(index, tensors)


@leaf.register_fake
def _(index: int, tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    return _run_leaf(index, tensors)


def _run_leaf(index: int, tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    module, structure, _ = LEAVES[index]
    args, kwargs = structure.fill(list(tensors))
    out = Structure.of(module.forward(*args, **kwargs))
    LEAVES[index] = (module, structure, out[0])
    return [hole.clone() for hole in out[1]]


def _setup(ctx: Any, inputs: Any, output: Any) -> None:
    ctx.index, tensors = inputs
    ctx.save_for_backward(*tensors)


def _backward(ctx: Any, grads: list[torch.Tensor | None]) -> tuple[None, list[torch.Tensor | None]]:
    module = LEAVES[ctx.index][0]
    with torch.enable_grad():
        tensors = [t.detach().requires_grad_(t.is_floating_point()) for t in ctx.saved_tensors]
        outs = _run_leaf(ctx.index, tensors)
    pairs = [
        (out, grad) for out, grad in zip(outs, grads, strict=True) if out.requires_grad and grad is not None
    ]
    wanted = [t for t in (*tensors, *module.parameters()) if t.requires_grad]
    found = torch.autograd.grad([o for o, _ in pairs], wanted, [g for _, g in pairs], allow_unused=True)
    by_id = {id(t): grad for t, grad in zip(wanted, found, strict=True)}
    for parameter in module.parameters():
        grad = by_id.get(id(parameter))
        if grad is not None:
            parameter.grad = grad if parameter.grad is None else parameter.grad + grad
    return None, [by_id.get(id(t)) for t in tensors]


leaf.register_autograd(_backward, setup_context=_setup)


@contextmanager
def _leaves_as_operators(model: nn.Module) -> Iterator[None]:
    from autopipe.trace.leaves import why_leaf

    leaves = {id(module) for module in model.modules() if why_leaf(module) is not None}
    original = nn.Module.__call__

    def __call__(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        if id(self) not in leaves:
            return original(self, *args, **kwargs)
        structure, tensors = Structure.of((args, kwargs))
        LEAVES.append((self, structure, structure))
        found = leaf(len(LEAVES) - 1, tensors)
        return LEAVES[-1][2].fill(found)

    nn.Module.__call__ = __call__  # type: ignore[method-assign]
    try:
        yield
    finally:
        nn.Module.__call__ = original  # type: ignore[method-assign]


def by_autopipe(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Call:
    """What autopipe does."""
    import autopipe

    return autopipe.split(model, 1, args, kwargs)


WAYS: dict[str, Way] = {
    "symbolic_trace": by_symbolic_trace,
    "torch.export": by_export,
    "export, leaves as operators": by_leaf_operators,
    "autopipe": by_autopipe,
}


def subjects() -> Iterator[tuple[str, nn.Module, Callable[[int], tuple[tuple[Any, ...], dict[str, Any]]]]]:
    """Yield name, model in train mode, and its batches."""
    from tests.benchmarks.small_batches import example
    from tests.benchmarks.small_models import architectures, build_that_runs

    for name in NAMES:
        file = load(name)
        torch.manual_seed(0)
        yield name, file.build().train(), lambda n, file=file: file.example(n)
    kinds = {name: kind for kind, _, name in architectures()}
    for name in TRANSFORMERS:
        kind = kinds[name]
        model, _ = build_that_runs(name, kind)
        model.config.use_cache = False  # torch.export cannot return a cache
        yield name, model, lambda n, model=model, kind=kind: ((), example(model, kind, n))


def numbers(call: Call, model: nn.Module, batch: tuple[Any, Any]) -> tuple[list[Any], dict[str, Any]]:
    """Run forward and backward from one seed; return the outputs and the gradients."""
    state = {name: buffer.clone() for name, buffer in model.named_buffers()}
    model.zero_grad(set_to_none=True)
    torch.manual_seed(3)
    args, kwargs = map_tensors(lambda t: t.detach().clone(), batch)
    holes = [hole for hole in Structure.of(call(*args, **kwargs))[1] if isinstance(hole, torch.Tensor)]
    roots = [hole.float().pow(2).sum() for hole in holes if hole.requires_grad]
    torch.stack(roots).sum().backward()
    grads = {name: p.grad for name, p in model.named_parameters()}
    model.zero_grad(set_to_none=True)
    with torch.no_grad():
        for name, buffer in model.named_buffers():
            buffer.copy_(state[name])
    return [hole.detach() for hole in holes], grads


def agrees(one: tuple[list[Any], dict[str, Any]], other: tuple[list[Any], dict[str, Any]]) -> bool:
    """Whether outputs are bitwise equal, and gradients as close as sums in another order leave them."""
    if len(one[0]) != len(other[0]) or not all(map(torch.equal, one[0], other[0])):
        return False
    return all(
        (grad is None and found is None)
        or (grad is not None and found is not None and torch.allclose(grad, found, 1e-3, 1e-5))
        for grad, found in ((grad, other[1][name]) for name, grad in one[1].items())
    )


def judge(way: Way, model: nn.Module, batches: list[Any]) -> tuple[str, float]:
    """Return "open", "right", "wrong" or the error, and the seconds of the capture."""
    start = time.perf_counter()
    try:
        call = way(model, *map_tensors(lambda t: t.detach().clone(), batches[0]))
    except Exception as error:
        return f"{type(error).__name__}", time.perf_counter() - start
    seconds = time.perf_counter() - start
    results = []
    for batch in batches:
        try:
            results.append(agrees(numbers(model, model, batch), numbers(call, model, batch)))
        except Exception:
            results.append(False)
    return ("open" if all(results) else "right" if results[0] else "wrong"), seconds


def main() -> None:
    """Try every way on every model in a process of its own, and print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--record", action="store_true")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    rows: list[tuple[str, dict[str, tuple[str, float]]]] = []
    for name, model, batch in subjects():
        batches = [batch(4), batch(6)]
        found = {key: _in_a_child(partial(judge, way, model, batches)) for key, way in WAYS.items()}
        rows.append((name, found))
        print(f"{name:<35}", *(f"{v[:22]:>24} {s:>5.1f} s" for v, s in found.values()), flush=True)
    text = _table(rows)
    print(text)
    if options.record:
        folder = Path(__file__).parents[2] / "docs" / "benchmarks"
        folder.mkdir(exist_ok=True)
        title = f"# Ways to capture, {date.today().isoformat()}\n\n"
        title += f"`python -m tests.benchmarks.capture_ways`, torch {torch.__version__}, one CPU thread.\n\n"
        (folder / f"capture-ways-{date.today().isoformat()}.md").write_text(title + text + "\n")


def _in_a_child(run: Callable[[], tuple[str, float]]) -> tuple[str, float]:
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        verdict, seconds = run()
        os.write(writer, f"{verdict}|{seconds}".encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as stream:
        verdict, _, seconds = stream.read().partition("|")
    os.waitpid(child, 0)
    return verdict or "crashed", float(seconds or 0)


def _table(rows: list[tuple[str, dict[str, tuple[str, float]]]]) -> str:
    counts: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    seconds: dict[str, list[float]] = defaultdict(list)
    for _, found in rows:
        for way, (verdict, took) in found.items():
            counts[way][verdict if verdict in ("open", "right", "wrong") else "error"] += 1
            seconds[way].append(took)
    lines = [f"of {len(rows)} models | open batch | right, batch fixed | wrong | error | median s"]
    lines += ["---|---|---|---|---|---"]
    for way in WAYS:
        cells = [str(counts[way][verdict]) for verdict in ("open", "right", "wrong", "error")]
        lines.append(f"{way} | {' | '.join(cells)} | {sorted(seconds[way])[len(rows) // 2]:.1f}")
    lines += ["", "model | " + " | ".join(WAYS), "---|" + "---|" * len(WAYS)]
    lines += [f"{name} | " + " | ".join(v for v, _ in found.values()) for name, found in rows]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
