"""Checkpoints of transformers under other names, and in other pieces, than the model has them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

import autopipe
from autopipe.weights import checkpoint, materialize
from tests.benchmarks.small_configs import configs
from tests.benchmarks.small_models import build

transformers = pytest.importorskip("transformers")

NAMES = [
    "MixtralForCausalLM",  # experts stacked, and two of them laid side by side
    "Qwen2MoeForCausalLM",  # so that there are other tensors of a layer under the same rules
    "GraniteMoeForCausalLM",  # renamed
    "GPTNeoXForCausalLM",  # the head renamed
    "ViTForImageClassification",  # one by one, through several rules
    "LlavaForConditionalGeneration",  # rules of the models inside it
    "FuyuForCausalLM",
    "MarianMTModel",  # stores no position tables, and says so
]


@pytest.fixture(autouse=True)
def quiet() -> Any:
    verbosity = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    yield
    transformers.logging.set_verbosity(verbosity)
    transformers.logging.enable_progress_bar()


def saved(name: str, folder: Path, **options: Any) -> nn.Module:
    """Save a model as transformers does it, no two values of a parameter the same."""
    model = build(name, next(iter(configs(getattr(transformers, name)))))
    with torch.no_grad():
        for fqn, parameter in model.named_parameters():
            if "embed_positions" not in fqn:
                parameter.copy_(torch.randn(parameter.shape))
    model.save_pretrained(folder, **options)  # type: ignore[operator]
    return model


def on_meta(model: nn.Module) -> nn.Module:
    with torch.device("meta"):
        made: nn.Module = type(model)(model.config)
    return made


def tensors_of(model: nn.Module) -> dict[str, torch.Tensor]:
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


def names_in(folder: Path) -> set[str]:
    with safe_open(folder / "model.safetensors", "pt") as file:
        return set(file.keys())


@pytest.mark.parametrize("name", NAMES)
def test_what_transformers_saved_under_names_of_its_own_is_read(name: str, tmp_path: Path) -> None:
    model = saved(name, tmp_path)
    meta = on_meta(model)
    materialize(meta, [*tensors_of(meta).values()], torch.device("cpu"), weights=tmp_path, build=None, seed=0)
    found = tensors_of(meta)
    assert [fqn for fqn, tensor in tensors_of(model).items() if not tensor.equal(found[fqn])] == []
    if "Marian" not in name:
        assert names_in(tmp_path) - set(model.state_dict())


def test_files_that_have_the_names_of_the_model_are_read_too(tmp_path: Path) -> None:
    model = saved("MixtralForCausalLM", tmp_path, save_original_format=False)
    assert names_in(tmp_path) <= set(model.state_dict())
    meta = on_meta(model)
    materialize(meta, [*tensors_of(meta).values()], torch.device("cpu"), weights=tmp_path, build=None, seed=0)
    assert meta.get_parameter("model.layers.0.mlp.experts.gate_up_proj").equal(
        model.get_parameter("model.layers.0.mlp.experts.gate_up_proj")
    )


def test_experts_are_read_into_their_places_without_a_copy_between(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = saved("MixtralForCausalLM", tmp_path)
    meta = on_meta(model)
    fqn = "model.layers.1.mlp.experts.gate_up_proj"
    read: list[str] = []

    def noted(self: checkpoint.Stored, tensor: torch.Tensor) -> None:
        read.append(self.name)
        plain(self, tensor)

    plain = checkpoint.Stored.read_into
    monkeypatch.setattr(checkpoint.Stored, "read_into", noted)
    materialize(meta, [meta.get_parameter(fqn)], torch.device("cpu"), weights=tmp_path, build=None, seed=0)
    assert meta.get_parameter(fqn).equal(model.get_parameter(fqn))
    inside = "model.layers.1.block_sparse_moe.experts"
    assert sorted(read) == sorted(f"{inside}.{i}.{w}.weight" for i in range(4) for w in ("w1", "w3"))


def test_of_all_experts_the_dtype_and_the_shape_are_looked_at_first(tmp_path: Path) -> None:
    model = saved("MixtralForCausalLM", tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    last = "model.layers.0.block_sparse_moe.experts.3.w2.weight"
    meta = on_meta(model)
    fqn = "model.layers.0.mlp.experts.down_proj"
    wrong = {
        rf"{fqn} is float32, the checkpoint's is F8_E4M3": state[last].to(torch.float8_e4m3fn),
        rf"{fqn} cannot be made of .*experts.0.w2.weight and 3 other tensors": state[last][:3].contiguous(),
    }
    for message, value in wrong.items():
        save_file(state | {last: value}, tmp_path / "model.safetensors")
        with pytest.raises(autopipe.ArgumentError, match=message):
            materialize(
                meta, [meta.get_parameter(fqn)], torch.device("cpu"), weights=tmp_path, build=None, seed=0
            )
        assert meta.get_parameter(fqn).is_meta
    for name in [name for name in state if "experts.3." in name]:
        del state[name]
    save_file(state, tmp_path / "model.safetensors")
    with pytest.raises(autopipe.ArgumentError, match=r"has the shape \[4, 32, 48\], what transformers makes"):
        materialize(
            meta, [meta.get_parameter(fqn)], torch.device("cpu"), weights=tmp_path, build=None, seed=0
        )
