"""Builds architectures of transformers small, from their own config classes, with an example that has a loss.

A config is made with small numbers wherever its constructor takes one of the names in ``SMALL``, its nested
configs alike. Arguments are made from the names in the signature of ``forward``.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

BATCH, LENGTH, IMAGE, VOCABULARY = 8, 10, 32, 99
LIMIT = 5_000_000

SMALL: dict[tuple[str, ...], Any] = {
    ("vocab_size", "entity_vocab_size", "decoder_vocab_size"): VOCABULARY,
    (
        "hidden_size",
        "d_model",
        "n_embd",
        "embed_dim",
        "dim",
        "emb_dim",
        "embedding_size",
        "projection_dim",
    ): 32,
    ("encoder_hidden_dim", "decoder_hidden_size", "hidden_dim", "d_embed", "text_embed_dim", "model_dim"): 32,
    ("num_hidden_layers", "n_layer", "n_layers", "num_layers", "encoder_layers", "decoder_layers"): 2,
    ("num_decoder_layers", "encoder_num_layers", "decoder_num_layers", "num_encoder_layers"): 2,
    ("num_attention_heads", "n_head", "n_heads", "num_heads", "encoder_attention_heads"): 4,
    ("decoder_attention_heads", "attention_heads", "decoder_num_attention_heads"): 4,
    ("num_key_value_heads", "num_kv_heads", "n_head_kv", "multi_query_group_num"): 2,
    ("head_dim", "d_kv", "attention_head_dim", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim"): 8,
    (
        "intermediate_size",
        "ffn_dim",
        "d_ff",
        "n_inner",
        "encoder_ffn_dim",
        "decoder_ffn_dim",
        "ffn_hidden_size",
    ): 48,
    ("moe_intermediate_size", "shared_expert_intermediate_size", "expert_ffn_hidden_size"): 16,
    ("max_position_embeddings", "n_positions", "max_source_positions", "max_target_positions", "n_ctx"): 64,
    ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts"): 4,
    ("num_experts_per_tok", "moe_topk", "top_k", "moe_k"): 2,
    ("q_lora_rank", "kv_lora_rank", "lora_rank", "state_size", "ssm_state_size"): 8,
    ("image_size",): IMAGE,
    ("patch_size",): 8,
    ("pad_token_id",): 0,
    ("bos_token_id", "decoder_start_token_id"): 1,
    ("eos_token_id",): 2,
    ("sliding_window", "attention_window"): 8,
    ("num_mel_bins", "num_labels"): 8,
}
_SMALL = {name: value for names, value in SMALL.items() for name in names}

KINDS = {
    "causal LM": "MODEL_FOR_CAUSAL_LM_MAPPING_NAMES",
    "masked LM": "MODEL_FOR_MASKED_LM_MAPPING_NAMES",
    "encoder-decoder": "MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES",
    "image classification": "MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES",
    "speech": "MODEL_FOR_CTC_MAPPING_NAMES",
    "audio classification": "MODEL_FOR_AUDIO_CLASSIFICATION_MAPPING_NAMES",
    "speech seq2seq": "MODEL_FOR_SPEECH_SEQ_2_SEQ_MAPPING_NAMES",
    "vision-language": "MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES",
    "contrastive": "MODEL_FOR_ZERO_SHOT_IMAGE_CLASSIFICATION_MAPPING_NAMES",
    "segmentation": "MODEL_FOR_SEMANTIC_SEGMENTATION_MAPPING_NAMES",
}


def loss_of(output: Any) -> torch.Tensor:
    """Return the model's own loss, or one of its logits where it has none."""
    if isinstance(output, dict):
        loss: torch.Tensor | None = output.get("loss")
        if loss is not None:
            return loss
        output = output["logits"]
    first: torch.Tensor = output[0] if isinstance(output, tuple | list) else output
    return first.float().pow(2).mean()


def architectures() -> Iterator[tuple[str, str, str]]:
    """Yield (kind, model type, class name) of every architecture, each class once."""
    from transformers.models.auto import modeling_auto

    seen = set()
    for kind, mapping in KINDS.items():
        for model_type, names in getattr(modeling_auto, mapping).items():
            name = names[0] if isinstance(names, tuple | list) else names
            if name not in seen:
                seen.add(name)
                yield kind, model_type, name


EXTRA = {
    "vocab_size": VOCABULARY,
    "apply_spec_augment": False,
    "layerdrop": 0.0,
    "mask_time_prob": 0.0,
    "default_language": "en_XX",
}
"""What is set wherever a config has it, None or not."""

PROFILES: tuple[dict[str, Any], ...] = (
    {},
    {"num_key_value_heads": 4, "num_kv_heads": 4},
    {"head_dim": 8, "num_key_value_heads": 2},
    {"num_hidden_layers": 4, "num_layers": 4},
    {"num_hidden_layers": 8, "head_dim": 8},
    {"rotary_dim": 4, "attention_types": [[["global", "local"], 1]], "is_decoder": True},
    {"mamba_n_heads": 8, "mamba_d_head": 8, "n_mamba_heads": 2, "num_heads": 8, "expand": 2, "head_dim": 8},
    {"hidden_size": 64, "num_attention_heads": 4},
)
"""What to try, in order, until a model of an architecture runs."""


def small_config(config_class: Any, profile: dict[str, Any]) -> Any:
    """Build a config of a class with small numbers, its nested configs alike."""
    default = config_class()
    given = {name: _shrunk(value, _SMALL[name]) for name, value in vars(default).items() if name in _SMALL}
    given |= {name: value for name, value in (EXTRA | profile).items() if hasattr(default, name)}
    if default.is_encoder_decoder:
        given["decoder_start_token_id"] = 1
    for name, value in vars(default).items():
        if hasattr(value, "to_dict") and hasattr(value, "model_type"):
            given[name] = small_config(type(value), profile).to_dict()
    return config_class(**given)


def _shrunk(value: Any, small: Any) -> Any:
    if isinstance(value, list | tuple) and value and all(isinstance(item, int) for item in value):
        return type(value)(min(item, small) for item in value)
    return value if value is None or isinstance(value, bool | str) else small


def build(name: str, profile: dict[str, Any]) -> nn.Module:
    """Build a model by its class name, small, in train mode.

    Raises:
        ValueError: If it has more than ``LIMIT`` parameters all the same.
    """
    import transformers

    model_class = getattr(transformers, name)
    config = small_config(model_class.config_class, profile)
    with torch.device("meta"):
        n_parameters = sum(parameter.numel() for parameter in model_class(config).parameters())
    if n_parameters > LIMIT:
        raise ValueError(f"{n_parameters / 1e6:.0f} million parameters")
    torch.manual_seed(0)
    model: nn.Module = model_class(config)
    return model.train()


def build_that_runs(name: str, kind: str) -> tuple[nn.Module, dict[str, Any]]:
    """Build a model with the first profile that runs forward and backward, and its batch.

    Raises:
        Exception: What the last profile raised.
    """
    failed: Exception = ValueError("no profile")
    for profile in PROFILES:
        try:
            model = build(name, profile)
            batch = example(model, kind)
            loss_of(model(**batch)).backward()
        except Exception as error:
            failed = error
            continue
        model.zero_grad(set_to_none=True)
        return model, batch
    raise failed


def example(model: nn.Module, kind: str, batch: int = BATCH) -> dict[str, Any]:
    """Make the keyword arguments of a batch, with labels where the model takes them."""
    accepted = set(inspect.signature(model.forward).parameters)
    generator = torch.Generator().manual_seed(1)
    config: Any = model.config

    def ids(length: int) -> torch.Tensor:
        return torch.randint(3, VOCABULARY - 1, (batch, length), generator=generator)

    def noise(*shape: int) -> torch.Tensor:
        return torch.randn(batch, *shape, generator=generator)

    given: dict[str, Any] = {}
    text = kind in ("causal LM", "masked LM", "encoder-decoder", "vision-language", "contrastive")
    if text and "input_ids" in accepted:
        given["input_ids"] = ids(LENGTH)
        given["labels"] = ids(LENGTH)
        if "attention_mask" in accepted and kind != "contrastive":
            given["attention_mask"] = torch.ones(batch, LENGTH, dtype=torch.long)
    if "pixel_values" in accepted:
        size = _image_size(config)
        given["pixel_values"] = noise(getattr(config, "num_channels", 3) or 3, size, size)
        given.setdefault("labels", torch.arange(batch) % 2)
        if kind == "segmentation":
            given["labels"] = torch.zeros(batch, size, size, dtype=torch.long)
    if "input_features" in accepted:
        given["input_features"] = noise(*_spectrogram(config))
        if kind != "speech":
            given.setdefault("labels", ids(4))
    elif "input_values" in accepted:
        given["input_values"] = noise(*_spectrogram(config)) if config.model_type == "ast" else noise(4000)
        if kind == "audio classification":
            given["labels"] = torch.arange(batch) % 2
    if kind == "contrastive":
        given["return_loss"] = True
    if kind == "vision-language":
        given = _with_image_tokens(config, given)
    return {name: value for name, value in given.items() if name in accepted}


def _spectrogram(config: Any) -> tuple[int, int]:
    """Return (length, bins), or (bins, length) for Whisper."""
    part = getattr(config, "encoder_config", None) or getattr(config, "audio_config", None) or config
    names = ("feature_projection_input_dim", "input_feat_per_channel", "num_mel_bins", "input_dim")
    bins = next((getattr(part, name) for name in names if getattr(part, name, None)), 8)
    if config.model_type == "whisper":
        return bins, 2 * config.max_source_positions
    return getattr(part, "max_length", 64), bins


def _image_size(config: Any) -> int:
    for part in (config, getattr(config, "vision_config", None)):
        size = getattr(part, "image_size", None)
        if size:
            return int(size[0] if isinstance(size, list | tuple) else size)
    return IMAGE


def _with_image_tokens(config: Any, given: dict[str, Any]) -> dict[str, Any]:
    """Train the language part alone where the places of images in the text would need a processor."""
    return {name: value for name, value in given.items() if name != "pixel_values"}
