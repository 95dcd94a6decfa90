"""A transformers config.json as a model: built on meta, with an example made from it."""

from __future__ import annotations

import builtins
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.cli.running import complaint, data

pytest.importorskip("transformers")

LLAMA = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 100,
    "max_position_embeddings": 64,
}
T5 = {
    "model_type": "t5",
    "architectures": ["T5ForConditionalGeneration"],
    "num_layers": 1,
    "d_model": 16,
    "d_ff": 16,
    "num_heads": 2,
    "d_kv": 8,
    "vocab_size": 32,
}
VIT = {
    "model_type": "vit",
    "architectures": ["ViTForImageClassification"],
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 32,
    "patch_size": 16,
}


@pytest.fixture
def config(tmp_path: Path) -> Any:
    def write(fields: Any, name: str = "config.json") -> Path:
        path = tmp_path / name
        path.write_text(fields if isinstance(fields, str) else json.dumps(fields), "utf-8")
        return path

    return write


def test_a_configuration_is_planned_without_weights(config: Any) -> None:
    told = data("plan", config(LLAMA), "--stages", 2)
    assert told["fingerprint"]["model"] == "LlamaForCausalLM"
    assert told["sizes"]["L64"] == 64


def test_batch_and_length_shape_the_example(config: Any) -> None:
    small, more, longer = (
        data("inspect", config(LLAMA), "--batch", batch, "--length", length)["saved_bytes"]
        for batch, length in ((3, 8), (12, 8), (3, 32))
    )
    assert small < more
    assert small < longer


def test_a_folder_means_its_configuration_and_settings_are_fields(config: Any) -> None:
    folder = config(LLAMA).parent
    rows = data("inspect", folder, "--set", "num_hidden_layers=3", "--length", 16)["modules"]
    assert [row["module"] for row in rows if "layers" in row["module"]] == [
        f"model.layers.{layer}" for layer in range(3)
    ]


def test_a_language_model_needs_no_named_architecture(config: Any) -> None:
    fields = {**LLAMA, "architectures": None}
    assert data("inspect", config(fields), "--length", 8)["model"] == "LlamaForCausalLM"


def test_an_encoder_and_decoder_gets_tokens_for_both(config: Any) -> None:
    told = data("doctor", config(T5), "--length", 8)
    assert [one["name"] for one in told["arguments"]] == ["input_ids", "decoder_input_ids"]


def test_an_image_model_gets_images_of_its_size(config: Any) -> None:
    told = data("doctor", config(VIT), "--batch", 2)
    assert told["arguments"] == [{"name": "pixel_values", "tensor": "f32[B, 3, 32, 32]"}]


def test_a_configuration_takes_an_example_too(config: Any, tmp_path: Path) -> None:
    tokens = "{'input_ids': torch.ones(batch, 8, dtype=torch.long)}"
    program = f"import torch\ndef example(batch=2):\n    return {tokens}\n"
    (tmp_path / "an_example.py").write_text(program, "utf-8")
    told = data("inspect", config(LLAMA), "--example", f"{tmp_path}/an_example.py:example", "--batch", 5)
    assert told["sizes"]["L8"] == 8


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ("[1, 2", "is not JSON"),
        ("[1, 2]", "is no configuration: it holds a list"),
        ({}, "does not know model_type None"),
        ({"model_type": "abacus"}, "does not know model_type 'abacus'"),
        ({"model_type": "abacus", "auto_map": {}}, "which autopipe does not run"),
        ({**LLAMA, "architectures": ["AbacusForCausalLM"]}, "does not know architecture 'AbacusForCausalLM'"),
        ({**VIT, "architectures": []}, "has no causal language model"),
        ({**LLAMA, "num_attention_heads": "four"}, "raised"),
        ({"model_type": "wav2vec2", "architectures": ["Wav2Vec2ForCTC"]}, "makes no example"),
    ],
)
def test_a_wrong_configuration_is_explained(config: Any, fields: Any, words: str) -> None:
    assert words in complaint("inspect", config(fields))


def test_an_image_has_no_length(config: Any) -> None:
    assert "of some length" in complaint("inspect", config(VIT), "--length", 7)


def test_without_transformers_it_says_what_to_install(config: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def missing(name: str, *rest: Any, **named: Any) -> Any:
        if name == "transformers":
            raise ImportError("No module named 'transformers'")
        return real(name, *rest, **named)

    monkeypatch.delitem(sys.modules, "transformers", raising=False)
    monkeypatch.setattr(builtins, "__import__", missing)
    assert "pip install 'autopipe-torch[hf]'" in complaint("inspect", config(LLAMA))
