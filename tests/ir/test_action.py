"""Actions and transfers: the grammar, and what each field may be."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autopipe.errors import ScheduleError
from autopipe.ir.action import Action, Op, Transfer

counts = st.integers(min_value=0, max_value=999)
names = st.text(st.characters(exclude_categories=["Z", "C"]), min_size=1).filter(
    lambda name: not name.split()[1:]
)


@st.composite
def actions(draw: st.DrawFn) -> Action:
    op, stage = draw(st.sampled_from(Op)), draw(counts)
    if op is Op.U:
        return Action(stage, op)
    if not op.is_comm:
        return Action(stage, op, draw(counts))
    further = stage + 1 + draw(counts)
    near_first = draw(st.booleans())
    stage, peer = (stage, further) if near_first else (further, stage)
    carries = "F" if near_first == (op is Op.SEND) else "B"
    return Action(stage, op, draw(counts), peer, draw(names), carries)


@given(actions())
def test_text_of_any_action_reads_back(action: Action) -> None:
    action.verify()
    assert Action.parse(str(action)) == action


@pytest.mark.parametrize(
    "text",
    [
        "2F0",
        "1B3",
        "1I0",
        "1W0",
        "2U",
        "0SEND_F1>2:block_a",
        "2RECV_F1<0:block_a",
        "2SEND_B1>0:block_a",
        "0RECV_B1<2:a.b",
    ],
)
def test_grammar(text: str) -> None:
    action = Action.parse(text)
    action.verify()
    assert str(action) == text


@pytest.mark.parametrize(
    "text",
    ["", "F0", "2X0", "2F", "2U3", "0SEND_F1<2:a", "0RECV_F1>2:a", "0SEND_F1>2:", "0SEND_I1>2:a", "2F0 "],
)
def test_what_is_no_action_is_refused_with_the_grammar(text: str) -> None:
    with pytest.raises(ScheduleError, match=r"is no action\.\n  An action reads 2F0"):
        Action.parse(text)


def test_both_ends_of_a_message_give_the_same_key() -> None:
    send, recv = Action.parse("2SEND_B1>0:a"), Action.parse("0RECV_B1<2:a")
    assert send.message == recv.message == ("a", "B", 2, 0, 1)
    assert str(recv.message) == str(send)


@pytest.mark.parametrize(
    ("action", "problem"),
    [
        (Action(-1, Op.F, 0), "negative"),
        (Action(0, Op.F), "needs a microbatch"),
        (Action(0, Op.U, 1), "which an update has not"),
        (Action(0, Op.F, 0, peer=1), "no peer"),
        (Action(0, Op.SEND, 0, 1, None, "F"), "needs a peer, a value"),
        (Action(0, Op.SEND, 0, 1, "a b", "F"), "blank"),
        (Action(0, Op.SEND, 0, 1, "a", "B"), "wrong way"),
        (Action(1, Op.SEND, 0, 0, "a", "F"), "wrong way"),
        (Action(0, Op.RECV, 0, 1, "a", "F"), "wrong way"),
        (Action(1, Op.RECV, 0, 1, "a", "F"), "wrong way"),
    ],
)
def test_fields_that_do_not_fit_the_op_are_named(action: Action, problem: str) -> None:
    with pytest.raises(ScheduleError, match=problem):
        action.verify()


@pytest.mark.parametrize(
    ("transfer", "problem"),
    [
        (Transfer("", 0, 1, 0, 0), "no blanks"),
        (Transfer("a b", 0, 1, 0, 0), "no blanks"),
        (Transfer("a", 1, 1, 0, 0), "later stages"),
        (Transfer("a", 2, 1, 0, 0), "later stages"),
        (Transfer("a", -1, 1, 0, 0), "later stages"),
        (Transfer("a", 0, 1, -1, 0), "negative size"),
        (Transfer("a", 0, 1, 0, -1), "negative size"),
    ],
)
def test_wrong_transfer_is_refused(transfer: Transfer, problem: str) -> None:
    with pytest.raises(ScheduleError, match=problem):
        transfer.verify()


def test_transfer_survives_json() -> None:
    transfer = Transfer("a", 0, 2, 8, 4)
    transfer.verify()
    assert Transfer.from_json(transfer.to_json()) == transfer
