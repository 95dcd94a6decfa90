"""What is wrong with the input of split and plan is said in words, before anything has been changed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import autopipe
from autopipe import ArgumentError, AutopipeError, InfeasibleError, PartitionError, PlanMismatchError
from tests.refusal import X, call, net, refused, state_of

LINKS = (
    "process, pcie4, pcie5, nvlink3, nvlink4, infiniband-hdr, infiniband-ndr, ethernet-10g, ethernet-25g, "
    "ethernet-100g"
)
KNOWN = f"""
  Known devices: cpu, a100, h100, h200. Known links: {LINKS}.
  Try: hardware="h100+infiniband", or an autopipe.ir.hardware.Hardware of your own"""
EXAMPLE = "Try: autopipe.split(model, n_stages, (tokens,)) with one microbatch: real, fake or meta tensors."

# -- split and plan take the same arguments

WRONG_ARGUMENTS: dict[str, tuple[dict[str, Any], str]] = {
    "zero stages": (
        {"n_stages": 0},
        "n_stages is 0.\n  A split has at least one stage.\n  Try: n_stages=1 or more.",
    ),
    "negative stages": (
        {"n_stages": -2},
        "n_stages is -2.\n  A split has at least one stage.\n  Try: n_stages=1 or more.",
    ),
    "stages that are no int": (
        {"n_stages": 2.0},
        "n_stages is 2.0, a float.\n  Try: n_stages=4, an int.",
    ),
    "stages that are a bool": (
        {"n_stages": True},
        "n_stages is True, a bool.\n  Try: n_stages=4, an int.",
    ),
    "zero ranks": (
        {"n_ranks": 0},
        "n_ranks is 0.\n  At least one rank runs the stages.\n  Try: n_ranks=1 or more.",
    ),
    "more ranks than stages": (
        {"n_ranks": 3},
        "3 ranks for 2 stages.\n  Every rank holds at least one stage.\n  Try: n_ranks=2",
    ),
    "zero microbatches": (
        {"n_microbatches": 0},
        "n_microbatches is 0.\n  A step has at least one microbatch.\n  Try: n_microbatches=1 or more.",
    ),
    "tensor for a tuple": (
        {"example_args": X},
        "example_args is a Tensor, not a tuple.\n"
        "  It holds the positional arguments of one call of the model.\n"
        "  Try: example_args=(tokens,), with the comma.",
    ),
    "tuple for a dict": (
        {"example_kwargs": (X,)},
        "example_kwargs is a tuple, not a dict from argument names to values.\n"
        '  Try: example_kwargs={"input_ids": tokens}',
    ),
    "no example": (
        {"example_args": None},
        "autopipe needs an example of the arguments of Net.\n"
        f"  The model carries none (dummy_inputs or example_input_array).\n  {EXAMPLE}",
    ),
    "example without a tensor": (
        {"example_args": (3,)},
        f"the example has no tensor in it.\n  {EXAMPLE}",
    ),
    "unknown cost": (
        {"cost": "guess"},
        "cost='guess' is unknown.\n  Try: one of 'roofline', 'measured'.",
    ),
    "unknown device": (
        {"hardware": "h1000"},
        f"unknown device 'h1000'. Did you mean 'h100'?{KNOWN}",
    ),
    "unknown link": (
        {"hardware": "h100+pigeon"},
        f"unknown link 'pigeon'.{KNOWN}",
    ),
    "hardware of another type": (
        {"hardware": 3},
        'hardware is an int.\n  Try: hardware="h100", or a Hardware.',
    ),
    "memory in words": (
        {"memory_limit": "lots"},
        "memory_limit='lots' is no number of bytes.\n  Try: memory_limit=\"16GiB\"",
    ),
    "memory in a strange unit": (
        {"memory_limit": "16XB"},
        "memory_limit='16XB' is no number of bytes.\n  Try: memory_limit=\"16GiB\"",
    ),
    "memory in halves of bytes": (
        {"memory_limit": 1.5},
        'memory_limit=1.5 is no number of bytes.\n  Try: memory_limit="16GiB"',
    ),
    "negative memory": (
        {"memory_limit": -1},
        'memory_limit=-1 is no number of bytes.\n  Try: memory_limit="16GiB"',
    ),
    "no memory": (
        {"memory_limit": 0},
        'memory_limit=0 leaves no memory.\n  Try: memory_limit="16GiB"',
    ),
    "more microbatches than can be planned": (
        {"n_microbatches": 10**9},
        "2 stages with 1000000000 microbatches are too many.\n"
        "  A step would have 4000000000 actions, a forward and a backward of every microbatch on every "
        "stage; autopipe plans 4000000.\n"
        "  Try: n_microbatches=1000000 or fewer, each of more samples.",
    ),
    "more stages than can be planned": (
        {"n_stages": 10**7, "n_microbatches": 1},
        "10000000 stages with 1 microbatches are too many.\n"
        "  A step would have 20000000 actions, a forward and a backward of every microbatch on every "
        "stage; autopipe plans 4000000.\n"
        "  Try: fewer stages.",
    ),
    "ranks in a string": (
        {"n_ranks": "2"},
        "n_ranks is '2', a str.\n  Try: n_ranks=2, an int.",
    ),
    "progress in words": (
        {"progress": "yes"},
        "progress is 'yes', a str.\n"
        "  Try: progress=True or progress=False; progress=None shows it on a terminal only.",
    ),
    "keyword argument without a name": (
        {"example_kwargs": {1: X}},
        "example_kwargs: the key 1 is an int, not the name of an argument.\n"
        '  Try: example_kwargs={"input_ids": tokens}',
    ),
    "too many arguments": (
        {"example_args": (X, X)},
        "the arguments do not fit forward(x): too many positional arguments.\n  in Net.forward\n"
        "  It was given x: float32[4, 4], argument 1: float32[4, 4].\n"
        "  Try: one microbatch of just the arguments that the model is called with.",
    ),
    "unknown keyword argument": (
        {"example_kwargs": {"mask": X}},
        "the arguments do not fit forward(x): got an unexpected keyword argument 'mask'.\n  in Net.forward\n"
        "  It was given x: float32[4, 4], mask: float32[4, 4].\n"
        "  Try: one microbatch of just the arguments that the model is called with.",
    ),
}


@pytest.mark.parametrize("function", [autopipe.split, autopipe.plan], ids=["split", "plan"])
@pytest.mark.parametrize("name", WRONG_ARGUMENTS)
def test_wrong_argument_is_refused(name: str, function: Callable[..., Any]) -> None:
    options, text = WRONG_ARGUMENTS[name]
    model = net()
    with refused(ArgumentError, text, model):
        call(function, model, **options)


@pytest.mark.parametrize("function", [autopipe.split, autopipe.plan], ids=["split", "plan"])
def test_unknown_schedule_is_refused_with_the_known_ones(function: Callable[..., Any]) -> None:
    model = net()
    before = state_of(model)
    with pytest.raises(ArgumentError, match=r"^there is no schedule 'zigzag'\.\n  Try: schedule=.*\"1f1b\""):
        call(function, model, schedule="zigzag")
    assert state_of(model) == before


def test_what_is_no_model_is_refused() -> None:
    with pytest.raises(
        ArgumentError, match=r"^model is a str, not a torch.nn.Module\.\n  Try: autopipe.split"
    ):
        call(autopipe.split, "gpt2")


def test_every_refusal_of_input_is_a_value_error_too() -> None:
    for kind in (ArgumentError, PartitionError, InfeasibleError, PlanMismatchError, autopipe.CaptureError):
        assert issubclass(kind, ValueError)
        assert issubclass(kind, AutopipeError)


# -- what only the graph can tell


def test_more_stages_than_legal_cuts_are_refused_with_the_number_that_works() -> None:
    model = net()
    text = "asked for 12 stages, but only 3 cut points are legal.\n  The graph has 4 nodes.\n"
    with refused(PartitionError, f"{text}  Try: n_stages=4 or fewer.", model):
        call(autopipe.split, model, n_stages=12)
    assert len(call(autopipe.split, model, n_stages=4)) == 4


def test_many_more_stages_than_nodes_are_refused_before_their_schedule_is_built(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(autopipe.planning, "build", lambda *_: pytest.fail("a schedule was built"))
    model = net()
    text = "asked for 600 stages, but only 3 cut points are legal.\n  The graph has 4 nodes.\n"
    with refused(PartitionError, f"{text}  Try: n_stages=4 or fewer.", model):
        call(autopipe.plan, model, n_stages=600)


def test_infeasible_memory_says_who_needs_how_much_and_that_works() -> None:
    model = net()
    before = state_of(model)
    with pytest.raises(InfeasibleError, match=r"^no 2-stage partition fits 100 bytes\.") as raised:
        call(autopipe.split, model, memory_limit=100)
    assert state_of(model) == before
    assert "needs" in raised.value.where
    enough = int(raised.value.remedy.removeprefix("memory_limit=").split()[0])
    with pytest.raises(InfeasibleError):
        call(autopipe.split, model, memory_limit=enough - 1)
    assert len(call(autopipe.split, model, memory_limit=enough)) == 2


def test_mixed_devices_are_refused_with_two_tensors_that_differ() -> None:
    model = net()
    model.last.to("meta")
    text = (
        "the model lies on several devices, and no split of autopipe put it there.\n"
        "  first.weight is on cpu, last.weight on meta.\n"
        "  The capture must know which devices written in the code mean the stage's own.\n"
        '  Try: model.to("meta") before the split; pipe[i].materialize(...) gives a stage values.'
    )
    for function in (autopipe.split, autopipe.plan):
        with refused(ArgumentError, text, model):
            call(function, model)
    assert len(call(autopipe.split, model.to("meta"))) == 2


def test_example_that_the_model_cannot_take_is_refused(caplog: pytest.LogCaptureFixture) -> None:
    model = net()
    before = state_of(model)
    with pytest.raises(ArgumentError, match=r"the arguments do not fit forward\(") as raised:
        call(autopipe.split, model, example_args=(torch.ones(4, 5),))
    assert "shapes cannot be multiplied" in raised.value.what
    assert "float32[4, 5]" in raised.value.why
    assert state_of(model) == before
    assert not [record for record in caplog.records if record.name == "torch._subclasses.fake_tensor"]


# -- plans


def test_plan_of_another_model_is_refused_with_the_first_difference() -> None:
    other = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 4))
    plan = call(autopipe.plan, other)
    model = net()
    before = state_of(model)
    with pytest.raises(
        PlanMismatchError, match=r"^the plan was made for another model\.\n  First difference of"
    ):
        call(autopipe.split, model, plan=plan)
    assert state_of(model) == before


def test_plan_of_another_size_names_the_parameter() -> None:
    plan = call(autopipe.plan, net())
    model = net()
    model.first = nn.Linear(4, 8, dtype=torch.float64)
    with refused(
        PlanMismatchError,
        "the plan was made for another model.\n"
        "  First difference of 2: first.weight is float64[8, 4], not float32[8, 4].\n"
        "  Try: make the plan again with autopipe.plan(model, n_stages, example_args).",
        model,
    ):
        call(autopipe.split, model, plan=plan)


def test_plan_for_another_number_of_stages_is_refused() -> None:
    model = net()
    plan = call(autopipe.plan, model)
    with refused(ArgumentError, "asked for 3 stages with a plan of 2.\n  Try: n_stages=2", model):
        call(autopipe.split, model, n_stages=3, plan=plan)


@pytest.mark.parametrize("text", ["", "{}", "[1]", "not json"])
def test_file_that_is_no_plan_is_refused(text: str, tmp_path: Path) -> None:
    path, model = tmp_path / "plan.json", net()
    path.write_text(text)
    before = state_of(model)
    with pytest.raises(PlanMismatchError, match="is not a plan"):
        call(autopipe.split, model, plan=path)
    assert state_of(model) == before


def test_empty_path_and_verify_in_words_are_refused() -> None:
    model = net()
    text = 'plan is an empty path.\n  Try: plan="plan.json", a file that plan.save wrote, or plan=None.'
    with refused(ArgumentError, text, model):
        call(autopipe.split, model, plan="")
    text = "verify is 'yes', a str.\n  Try: verify=True or verify=False."
    with refused(ArgumentError, text, model):
        call(autopipe.split, model, verify="yes")


def test_missing_plan_and_other_things_are_refused(tmp_path: Path) -> None:
    model, path = net(), tmp_path / "none.json"
    text = (
        f"the plan {path} cannot be read.\n  FileNotFoundError: No such file or directory.\n"
        "  Try: plan.save(path) writes one."
    )
    with refused(ArgumentError, text, model):
        call(autopipe.split, model, plan=path)
    text = "plan is an int.\n  Try: a Plan, or the path of a file that plan.save wrote."
    with refused(ArgumentError, text, model):
        call(autopipe.split, model, plan=3)
