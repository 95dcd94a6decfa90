"""Globs and pins that mean nothing, or contradict each other, are refused in words."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from torch import nn

import autopipe
from autopipe import ArgumentError, PartitionError
from tests.refusal import call, net, refused

WRONG_GLOBS: dict[str, tuple[dict[str, Any], str]] = {
    "glob that matches nothing": (
        {"keep_together": ("blocks.*",)},
        "keep_together: the glob 'blocks.*' matches no module and no parameter of the model.\n"
        "  Its names are first, norm, last, first.weight, ...\n"
        "  Try: autopipe matches whole names: keep_together=('*.blocks.*',) looks deeper.",
    ),
    "glob of a group that matches nothing": (
        {"same_stage": (("first", "head"),)},
        "same_stage: the glob 'head' matches no module and no parameter of the model.\n"
        "  Its names are first, norm, last, first.weight, ...\n"
        "  Try: autopipe matches whole names: same_stage=(('*.head', ...),) looks deeper.",
    ),
    "opaque that matches nothing": (
        {"opaque": ("head",)},
        "opaque: the glob 'head' matches no module of the model.\n"
        "  Its names are first, norm, last\n"
        "  Try: autopipe matches whole names: opaque=('*.head',) looks deeper.",
    ),
    "pin that matches nothing": (
        {"pin": {"head": 0}},
        "pin: the glob 'head' matches no module and no parameter of the model.\n"
        "  Its names are first, norm, last, first.weight, ...\n"
        "  Try: autopipe matches whole names: pin={'*.head': 0} looks deeper.",
    ),
    "string for globs": (
        {"keep_together": "first"},
        "keep_together='first' is no tuple of globs.\n  Try: keep_together=('blocks.*',), with the comma.",
    ),
    "pin to a stage that is not there": (
        {"pin": {"first": 2}},
        "pin: 'first' is pinned to stage 2 of 2.\n  Try: 0 to 1; -1 is the last.",
    ),
    "pin to a stage before the first": (
        {"pin": {"first": -3}},
        "pin: 'first' is pinned to stage -3 of 2.\n  Try: 0 to 1; -1 is the last.",
    ),
    "pin to a word": (
        {"pin": {"first": "last"}},
        "pin: 'first' is pinned to stage 'last' of 2.\n  Try: 0 to 1; -1 is the last.",
    ),
    "pins that contradict each other": (
        {"pin": {"*r*": 0, "first": 1}},
        "pin: '*r*' pins 'first' to stage 0, 'first' to stage 1.\n"
        "  What a glob matches is pinned with all that it holds.\n"
        "  Try: pin={'first': 1}, or globs that do not meet in 'first'.",
    ),
    "pin of a module against its parameter": (
        {"pin": {"last": -1, "last.weight": 0}},
        "pin: 'last' pins 'last.weight' to stage -1, 'last.weight' to stage 0.\n"
        "  What a glob matches is pinned with all that it holds.\n"
        "  Try: pin={'last.weight': 0}, or globs that do not meet in 'last.weight'.",
    ),
    "pin from stage to glob": (
        {"pin": {0: "first"}},
        "pin: the key 0 is an int, not a glob.\n"
        "  A pin maps a glob over names of modules to a stage.\n"
        '  Try: pin={"embed": 0, "head": -1}',
    ),
    "pin to a bool": (
        {"pin": {"first": True}},
        "pin: 'first' is pinned to stage True of 2.\n  Try: 0 to 1; -1 is the last.",
    ),
    "pin of nothing": (
        {"pin": {"": 0}},
        "pin: a glob is empty.\n  Try: pin={'blocks.*': 0}",
    ),
    "pins in a list": (
        {"pin": ["first"]},
        'pin=[\'first\'] is no dict from globs to stages.\n  Try: pin={"embed": 0, "head": -1}',
    ),
    "opaque parameter": (
        {"opaque": ["first.weight"]},
        "opaque: the glob 'first.weight' matches no module of the model.\n"
        "  Its names are first, norm, last\n"
        "  Try: autopipe matches whole names: opaque=('*.first.weight',) looks deeper.",
    ),
    "globs for groups": (
        {"same_stage": ("first", "last")},
        "same_stage=('first', 'last') is no tuple of groups of globs.\n"
        "  Try: same_stage=(('first', 'last'),), with the comma.",
    ),
    "empty glob": (
        {"keep_together": ("",)},
        "keep_together: a glob is empty.\n  Try: keep_together=('blocks.*',)",
    ),
}


@pytest.mark.parametrize("function", [autopipe.split, autopipe.plan], ids=["split", "plan"])
@pytest.mark.parametrize("name", WRONG_GLOBS)
def test_wrong_glob_is_refused(name: str, function: Callable[..., Any]) -> None:
    options, text = WRONG_GLOBS[name]
    model = net()
    with refused(ArgumentError, text, model):
        call(function, model, **options)


def test_pins_against_the_flow_are_refused() -> None:
    model = net()
    text = (
        "pins contradict each other: 'first' to stage 1, 'last' to stage 0.\n  node 'first'\n"
        "  What a node reads, or must share a stage with, cannot come in a later stage.\n"
        "  Try: 'first' to stage 0 or earlier, or 'last' to stage 1 or later."
    )
    with refused(PartitionError, text, model):
        call(autopipe.split, model, pin={"first": 1, "last": 0})


def test_one_module_may_be_pinned_twice_to_the_same_stage() -> None:
    plan = call(autopipe.plan, net(), pin={"last": -1, "last.*": 1})
    assert "last" in plan.fqns_per_stage()[1]


def test_tied_weight_does_not_make_pins_contradict() -> None:
    model = net()
    model.last = nn.Linear(4, 8)
    model.last.weight = model.first.weight
    model.forward = lambda x: model.last(model.first(x)[:, :4])
    plan = call(autopipe.plan, model, pin={"first": 0, "last": -1})
    assert "last" in plan.fqns_per_stage()[1]
