"""What `split` and `plan` promise: the arguments, the pipeline that comes back, the plan as a file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import autopipe
from autopipe.ir.plan import Plan
from models import gpt, lstm, tied_lm

SIZE = {"n_blocks": 4, "width": 32}
TOKENS = torch.zeros(2, 32, dtype=torch.long)


@pytest.fixture(scope="module")
def model() -> nn.Module:
    torch.manual_seed(0)
    return gpt.build(**SIZE)


@pytest.fixture(scope="module")
def pipe(model: nn.Module) -> autopipe.Pipeline:
    return autopipe.split(model, 3, (TOKENS,))


def stages_of(plan: Plan, fqn: str) -> set[int]:
    """The stages of all nodes inside a module."""
    inside = (key for key in plan.stage_of_key if key.split("|")[0].startswith(fqn))
    return {plan.stage_of_key[key] for key in inside}


def test_a_pipeline_is_a_container_of_stages(pipe: autopipe.Pipeline) -> None:
    assert len(pipe) == len(list(pipe)) == len(pipe.stages) == 3
    assert [stage.index for stage in pipe] == [0, 1, 2]
    assert pipe[-1].index == 2
    assert pipe[0].send
    assert not pipe[0].recv
    assert "GPT, 3 stages, 1f1b x 12 microbatches" in repr(pipe)


def test_stages_hold_the_models_own_modules(model: nn.Module, pipe: autopipe.Pipeline) -> None:
    for stage in pipe:
        for fqn in stage.fqns:
            assert stage.module.get_submodule(fqn) is model.get_submodule(fqn)


def test_the_state_dict_is_the_models(model: nn.Module, pipe: autopipe.Pipeline) -> None:
    assert pipe.state_dict().keys() == model.state_dict().keys()
    union = {fqn for stage in pipe for fqn in stage.module.state_dict()}
    assert union == model.state_dict().keys()


def test_loading_a_state_dict_changes_the_model(pipe: autopipe.Pipeline, model: nn.Module) -> None:
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    pipe.load_state_dict({name: torch.ones_like(tensor) for name, tensor in before.items()})
    assert all(bool((tensor == 1).all()) for tensor in model.state_dict().values())
    pipe.load_state_dict(before)


def test_eval_of_the_pipeline_is_eval_of_the_model(model: nn.Module, pipe: autopipe.Pipeline) -> None:
    pipe.eval()
    assert not any(module.training for module in model.modules())
    assert pipe(TOKENS).equal(model(TOKENS))
    pipe.train()
    assert all(module.training for module in model.modules())


def test_another_length_and_another_batch_keep_the_stages(model: nn.Module, pipe: autopipe.Pipeline) -> None:
    pipe.eval()
    for shape in ((5, 32), (2, 7), (1, 32)):
        tokens = torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(0))
        assert pipe(tokens).equal(model(tokens))
    pipe.train()


def test_keep_together_keeps_every_match_for_itself_uncut(model: nn.Module) -> None:
    plan = autopipe.plan(model, 3, (TOKENS,), keep_together=("blocks.*",))
    for block in range(SIZE["n_blocks"]):
        assert len(stages_of(plan, f"blocks.{block}.")) == 1


def test_same_stage_puts_distant_modules_together(model: nn.Module) -> None:
    plan = autopipe.plan(model, 3, (TOKENS,), same_stage=(("blocks.1", "blocks.2"),))
    assert stages_of(plan, "blocks.1.") == stages_of(plan, "blocks.2.")
    assert len(stages_of(plan, "blocks.1.")) == 1


def test_pin_holds_and_minus_one_is_the_last(model: nn.Module) -> None:
    plan = autopipe.plan(model, 3, (TOKENS,), pin={"blocks.0": 0, "blocks.2": -1})
    assert stages_of(plan, "blocks.0.") == {0}
    assert stages_of(plan, "blocks.2.") == stages_of(plan, "blocks.3.") == {2}


def test_opaque_makes_a_module_one_node(model: nn.Module) -> None:
    pipe = autopipe.split(model, 2, (TOKENS,), opaque=("blocks.1",))
    held = [fqn for stage in pipe for fqn in stage.fqns if fqn.startswith("blocks.1")]
    assert held == ["blocks.1"]
    assert any("blocks.1 is one node" in note for note in pipe.plan.notes)
    pipe.eval()
    assert pipe(TOKENS).equal(model(TOKENS))
    pipe.train()


def test_fewer_ranks_mean_virtual_stages(model: nn.Module) -> None:
    plan = autopipe.plan(model, 4, (TOKENS,), n_ranks=2)
    assert plan.partition.rank_of_stage == (0, 1, 0, 1)
    assert plan.schedule.n_ranks == 2


def test_a_plan_is_saved_loaded_and_used_again(model: nn.Module, tmp_path: Path) -> None:
    plan = autopipe.plan(model, 3, (TOKENS,))
    plan.save(tmp_path / "plan.json")
    loaded = Plan.load(tmp_path / "plan.json")
    assert plan.diff(loaded) == []
    again = autopipe.split(model, 3, (TOKENS,), plan=tmp_path / "plan.json")
    assert again.plan.stage_of_key == plan.stage_of_key
    assert [stage.fqns for stage in again] == [tuple(fqns) for fqns in plan.fqns_per_stage()]


def test_the_same_input_gives_the_same_bytes(model: nn.Module, tmp_path: Path) -> None:
    for name in ("a.json", "b.json"):
        autopipe.plan(model, 3, (TOKENS,)).save(tmp_path / name)
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()


def test_a_plan_from_meta_fits_the_real_model(model: nn.Module) -> None:
    with torch.device("meta"):
        shadow = gpt.build(**SIZE)
    plan = autopipe.plan(shadow, 3, (TOKENS.to("meta"),))
    assert plan.diff(autopipe.plan(model, 3, (TOKENS,))) == []
    assert len(autopipe.split(model, 3, (TOKENS,), plan=plan)) == 3


def test_certificate_bounds_and_baselines_are_in_the_plan(model: nn.Module) -> None:
    plan = autopipe.plan(model, 3, (TOKENS,))
    certificate = plan.partition.certificate
    assert 0 < certificate.lower_bound_ms <= certificate.bottleneck_ms
    assert 0 <= certificate.gap < 1
    assert plan.baselines.keys() == {"uniform layers", "by parameters"}
    assert certificate.bottleneck_ms <= min(plan.baselines.values()) * (1 + 1e-9)


class WithDummyInputs(nn.Module):
    """Carries an example, as transformers models do."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 4))

    @property
    def dummy_inputs(self) -> dict[str, torch.Tensor]:
        return {"x": torch.ones(3, 4)}

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.layers(x)
        return out


class WithExampleArray(nn.Sequential):
    """Carries an example, as Lightning modules do."""

    example_input_array = torch.ones(3, 4)


@pytest.mark.parametrize("carrier", [WithDummyInputs(), WithExampleArray(nn.Linear(4, 8), nn.Linear(8, 4))])
def test_no_example_is_needed_where_the_model_carries_one(carrier: nn.Module) -> None:
    pipe = autopipe.split(carrier, 2)
    assert pipe(torch.ones(5, 4)).equal(carrier(torch.ones(5, 4)))


def test_no_example_at_all_is_an_error_with_the_call_to_write() -> None:
    with pytest.raises(autopipe.ArgumentError, match=r"Try: autopipe.split\(model, n_stages, \(tokens,\)\)"):
        autopipe.split(nn.Linear(2, 2), 1)


def test_the_model_is_left_as_it_was() -> None:
    torch.manual_seed(0)
    model = tied_lm.build()
    args, kwargs = tied_lm.example(2)
    before = {name: (id(p), p.clone(), p.grad) for name, p in model.named_parameters()}
    attributes = {fqn: set(vars(module)) for fqn, module in model.named_modules()}
    stream = torch.get_rng_state()
    autopipe.split(model, 3, args, kwargs)
    assert torch.get_rng_state().equal(stream)
    assert {fqn: set(vars(module)) for fqn, module in model.named_modules()} == attributes
    for name, parameter in model.named_parameters():
        identity, value, grad = before[name]
        assert id(parameter) == identity
        assert parameter.equal(value)
        assert parameter.grad is grad


def test_hooks_registered_on_a_container_after_the_split_are_an_error() -> None:
    model = gpt.build(**SIZE)
    pipe = autopipe.split(model, 2, (TOKENS,))
    handle = model.blocks[0].register_forward_hook(lambda *_: None)
    with pytest.raises(autopipe.PlanMismatchError, match=r"blocks.0 has hooks that were registered after"):
        pipe(TOKENS)
    handle.remove()
    pipe(TOKENS)


def test_integers_cross_stages_and_states_come_back() -> None:
    torch.manual_seed(0)
    model = lstm.build().eval()
    args, kwargs = lstm.example(2)
    expected: Any = model(*args, **kwargs)
    got: Any = autopipe.split(model, 4, args, kwargs)(*args, **kwargs)
    assert type(got) is type(expected)
    for a, b in zip(
        torch.utils._pytree.tree_leaves(got), torch.utils._pytree.tree_leaves(expected), strict=True
    ):
        assert a.equal(b)


def test_print_readable_shows_the_code_of_every_stage(
    pipe: autopipe.Pipeline, capsys: pytest.CaptureFixture[str]
) -> None:
    text = pipe.print_readable()
    assert capsys.readouterr().out == text + "\n"
    assert pipe.print_readable(print_output=False) == text
    assert all(f"stage {index}" in text.lower() for index in range(3))
