"""From a captured model to a plan: prices, the split, what others would have done, and the predicted step."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import nn

from autopipe.arguments import Choices
from autopipe.cost import cost_graph
from autopipe.errors import InfeasibleError, PartitionError
from autopipe.globs import matching
from autopipe.ir.action import Transfer
from autopipe.ir.cost_graph import CostGraph
from autopipe.ir.fingerprint import Fingerprint
from autopipe.ir.partition import Partition
from autopipe.ir.plan import Plan
from autopipe.ir.schedule import Schedule
from autopipe.ir.traced import TracedModel
from autopipe.partition import Objective, Rules, by_parameters, compile_problem, solve, uniform_layers
from autopipe.partition.refusals import check_enough_items
from autopipe.progress import Say
from autopipe.rewrite.boundary import StageContent, stage_contents
from autopipe.rewrite.gradients import values_with_gradient
from autopipe.schedule import build, in_flight
from autopipe.schedule.predict import predict


def fingerprint_of(model: nn.Module) -> Fingerprint:
    """Return what tells this model from others: names, shapes and dtypes, devices aside."""
    tensors = [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]
    described = ((name, tuple(t.shape), str(t.dtype).removeprefix("torch.")) for name, t in tensors)
    return Fingerprint(type(model).__name__, tuple(described))


def plan_for(
    model: nn.Module,
    traced: TracedModel,
    choices: Choices,
    example: tuple[tuple[Any, ...], dict[str, Any]],
    say: Say,
) -> Plan:
    """Price a captured model and split it.

    Args:
        model: The model.
        traced: Its capture.
        choices: What the caller chose.
        example: The microbatch that measured costs run on.
        say: Is told what is being done.

    Returns:
        The plan.

    Raises:
        PartitionError: If no partition of this shape exists.
    """
    say("pricing its nodes")
    graphs = priced_by_position(model, traced, choices, example)
    graph = graphs[0]
    if choices.n_stages > len(graph.nodes):  # said before a schedule of so many stages is built
        objective = Objective(graph, choices.hardware, choices.n_stages, Rules())
        check_enough_items(objective, compile_problem(objective))
    schedule = build(choices.schedule, choices.n_stages, choices.n_microbatches, choices.n_ranks)
    say("finding the best cuts")
    try:
        partition = solve(
            graphs if len(graphs) > 1 else graph,
            choices.n_stages,
            hardware=choices.hardware,
            in_flight=in_flight(schedule),
            memory_limit_bytes=choices.memory_limit_bytes,
            allow_recompute=True,
            n_ranks=choices.n_ranks,
            pin=pins_of(traced, choices),
            together=groups_of(traced, choices),
            n_microbatches=choices.n_microbatches,
            objective=choices.objective,
            device_order=choices.device_order,
        )
    except InfeasibleError as error:
        remedy = error.remedy.partition("\n")[0].replace("memory_limit_bytes=", "memory_limit=")
        raise InfeasibleError(error.what, error.where, error.why, remedy) from error
    if partition.device_order:
        choices = replace(choices, hardware=choices.hardware.in_order(partition.device_order))
        graphs = [graphs[at % len(graphs)] for at in partition.device_order]
    return assembled(model, traced, choices, graphs, schedule, partition)


def assembled(
    model: nn.Module,
    traced: TracedModel,
    choices: Choices,
    graphs: Sequence[CostGraph],
    schedule: Schedule,
    partition: Partition,
    sizes: Mapping[str, int] | None = None,
) -> Plan:
    """Put a plan together.

    Args:
        model: The model.
        traced: Its capture.
        choices: What was chosen.
        graphs: The prices, for all positions or one a position.
        schedule: The actions of every rank.
        partition: The split.
        sizes: Values of the symbolic sizes that were priced; None: the example's.

    Returns:
        The plan, with what others would have done and the predicted step.
    """
    contents = contents_of(model, traced, partition)
    sizes = dict(sizes or traced.sizes)
    transfers = transfers_of(contents, sizes)
    timeline = predict(schedule, partition, transfers, choices.hardware)
    return Plan(
        fingerprint=fingerprint_of(model),
        hardware=choices.hardware,
        cost_source=choices.cost,
        keys={node.name: traced.info[node.name].key for node in traced.compute_nodes()},
        fqns=tuple(_fqns(traced, content) for content in contents),
        partition=partition,
        baselines=_baselines(graphs, choices, schedule),
        transfers=transfers,
        schedule=schedule,
        predictions={"step_ms": timeline.makespan_ms, "bubble_fraction": timeline.bubble_fraction},
        sizes=sizes,
        notes=tuple(_notes(traced)),
        cost_graph=graphs[0],
    )


def contents_of(model: nn.Module, traced: TracedModel, partition: Partition) -> tuple[StageContent, ...]:
    """Return what every stage consists of."""
    trained = {name for name, p in model.named_parameters(remove_duplicate=False) if p.requires_grad}
    flows, again = values_with_gradient(traced, trained), frozenset(partition.recomputed)
    return stage_contents(traced, partition.stage_of, partition.n_stages, flows, again)


def transfers_of(contents: tuple[StageContent, ...], sizes: Mapping[str, int]) -> tuple[Transfer, ...]:
    """Return what crosses between stages in a training step, with its bytes at the given sizes."""
    found = []
    for stage, content in enumerate(contents):
        for port in content.send:
            nbytes = port.spec.nbytes(sizes)
            if not port.output_only:
                found.append(
                    Transfer(port.value, stage, port.peer, nbytes, nbytes if port.carries_grad else 0)
                )
    return tuple(found)


def priced(
    model: nn.Module,
    traced: TracedModel,
    choices: Choices,
    example: tuple[tuple[Any, ...], dict[str, Any]],
    sizes: Mapping[str, int] | None = None,
) -> CostGraph:
    """Price every node.

    Args:
        model: The model.
        traced: Its capture.
        choices: Whose hardware, and how costs are found.
        example: The microbatch that measured costs run on.
        sizes: Values of symbolic sizes that differ from the example's, for a roofline.

    Returns:
        The cost graph.
    """
    if choices.cost == "measured":
        from autopipe.cost import measure

        return measure(traced, model, example, choices.hardware)
    return cost_graph(traced, model, choices.hardware, sizes=sizes)


def priced_by_position(
    model: nn.Module,
    traced: TracedModel,
    choices: Choices,
    example: tuple[tuple[Any, ...], dict[str, Any]],
    sizes: Mapping[str, int] | None = None,
) -> list[CostGraph]:
    """Price every node on every device that there is.

    Args:
        model: The model.
        traced: Its capture.
        choices: Whose hardware, and how costs are found; measured costs are those of this machine.
        example: The microbatch that measured costs run on.
        sizes: Values of symbolic sizes that differ from the example's, for a roofline.

    Returns:
        One cost graph for all positions, or one a position; devices that are alike share theirs.
    """
    devices = choices.hardware.devices
    if choices.cost == "measured" or all(device == devices[0] for device in devices):
        return [priced(model, traced, choices, example, sizes)]
    kinds = [devices.index(device) for device in devices]
    graph_of = {
        kind: priced(
            model, traced, replace(choices, hardware=choices.hardware.on_one(devices[kind])), example, sizes
        )
        for kind in dict.fromkeys(kinds)
    }
    return [graph_of[kind] for kind in kinds]


def _baselines(graphs: Sequence[CostGraph], choices: Choices, schedule: Schedule) -> dict[str, float]:
    """Return the bottleneck of what others do, in ms; a rule that finds no such split is left out."""
    rules = Rules(in_flight=in_flight(schedule), n_microbatches=choices.n_microbatches)
    objective = Objective(graphs, choices.hardware, choices.n_stages, rules)
    found = {}
    for name, rule in (("uniform layers", uniform_layers), ("by parameters", by_parameters)):
        try:
            found[name] = rule(objective, compile_problem(objective)).certificate.bottleneck_ms
        except PartitionError:
            continue
    return found


def groups_of(traced: TracedModel, choices: Choices) -> list[tuple[str, ...]]:
    """Return the nodes that each match of ``keep_together`` and each group of ``same_stage`` holds."""
    held: dict[str, list[str]] = {}
    holder = _holder(traced, choices.keep_together)
    for name, match in holder.items():
        held.setdefault(match, []).append(name)
    groups = list(held.values()) + [list(_holder(traced, group)) for group in choices.same_stage]
    return [tuple(group) for group in groups if len(group) > 1]


def pins_of(traced: TracedModel, choices: Choices) -> dict[str, int]:
    """Return the stage of every pinned node."""
    return {name: stage for glob, stage in choices.pin.items() for name in _holder(traced, (glob,))}


def _holder(traced: TracedModel, globs: Iterable[str]) -> dict[str, str]:
    """Return, for every node that runs inside a match or reads a matching parameter, the match."""
    if not globs:
        return {}
    names = {info.fqn for info in traced.info.values()} | {
        p for info in traced.info.values() for p in info.parameters
    }
    prefixes = {".".join(name.split(".")[: i + 1]) for name in names for i in range(name.count(".") + 1)}
    match_of = matching(globs, prefixes)
    found = {}
    for node in traced.compute_nodes():
        info = traced.info[node.name]
        matches = [match for name in (info.fqn, *info.parameters) if (match := match_of(name))]
        if matches:
            found[node.name] = matches[0]
    return found


def _fqns(traced: TracedModel, content: StageContent) -> tuple[str, ...]:
    """Return the FQNs of a stage's leaves, then of the parameters and buffers that it reads outside them."""
    leaves = [str(node.target) for node in content.nodes if node.op == "call_module"]
    bare = [str(node.target) for node in content.nodes if node.op == "get_attr"]
    return tuple(dict.fromkeys([*leaves, *(name for name in bare if name not in traced.constants)]))


def _notes(traced: TracedModel) -> Iterable[str]:
    """Say what a reader of the summary should know of the capture."""
    paths = [path for path, name in zip(traced.out_structure.paths, traced.out_names, strict=True) if name]
    if any(path in ("['loss']", ".loss") for path in paths) and len(paths) > 1:
        rest = sorted({path.split("<")[0].strip("[]'.") for path in paths} - {"loss"})
        yield f"also returned: {', '.join(rest)}; they stay on their stages unless a step asks for the output"
    for info in traced.info.values():
        if info.opaque_because:
            yield f"{info.fqn} is one node: {info.opaque_because}"
