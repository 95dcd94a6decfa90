"""Inside one look the state of a model is read once; outside, and after a change, anew."""

from __future__ import annotations

import torch
from torch import nn

from autopipe.trace import look_again, one_look, signature_of


def test_inside_a_look_the_state_is_read_once() -> None:
    model = nn.Dropout()
    with one_look():
        first = signature_of(model, (), {})
        model.eval()
        assert signature_of(model, (torch.ones(2),), {}).state is first.state
        look_again()
        assert signature_of(model, (), {}) != first
    assert signature_of(model, (), {}).state is not signature_of(model, (), {}).state


def test_a_look_ends_with_what_was_raised_inside() -> None:
    model = nn.Dropout()
    try:
        with one_look():
            before = signature_of(model, (), {})
            raise ValueError
    except ValueError:
        model.eval()
    assert signature_of(model, (), {}) != before


def test_looks_at_several_models_are_apart() -> None:
    with one_look():
        assert signature_of(nn.Dropout(), (), {}) != signature_of(nn.Linear(1, 1), (), {})
