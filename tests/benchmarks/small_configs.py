"""Makes small configs of transformers, from their own config classes.

A config is made with small numbers wherever its constructor takes one of the names in ``SMALL``, its nested
configs alike; where no such model runs, with the default numbers divided (``scaled_config``).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from tests.benchmarks.scaled_config import scaled
from tests.benchmarks.small_sizes import IMAGE, LENGTH, VOCABULARY

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
    ("d_latents", "out_hidden_size", "output_dim"): 32,
    ("num_latents", "num_self_attends_per_block", "latent_query_num"): 4,
    ("image_size",): IMAGE,
    ("patch_size",): 8,
    ("pad_token_id",): 0,
    ("bos_token_id", "decoder_start_token_id"): 1,
    ("eos_token_id",): 2,
    ("sliding_window", "attention_window"): 8,
    ("num_mel_bins", "num_labels"): 8,
    ("width_coefficient", "depth_coefficient"): 0.5,
}
SMALL_NUMBERS = {name: value for names, value in SMALL.items() for name in names}

EXTRA = {
    "vocab_size": VOCABULARY,
    "apply_spec_augment": False,
    "layerdrop": 0.0,
    "mask_time_prob": 0.0,
    "default_language": "en_XX",
    "pad_token_id": 0,
    "mm_tokens_per_image": 4,
    "num_kv_shared_layers": 0,
    "axial_pos_shape": [2, LENGTH // 2],
    "axial_pos_embds_dim": [16, 16],
    "encoder_hash_byte_group_vocab": VOCABULARY,
    "image_grid_pinpoints": [[IMAGE, 2 * IMAGE], [2 * IMAGE, IMAGE]],
}
"""What is set wherever a config has it, None or not."""

HASHED = {"hash_seed": 0, "hidden_dropout_prob": 0.0, "local_attention_probs_dropout_prob": 0.0}
"""What is set where a config hashes at random, with seeds of the operating system where it drops."""

CROSS = {"is_decoder": True, "add_cross_attention": True}
"""What is set in a decoder that is made of a model of text, so that it reads what the encoder says."""

WHERE_NONE = {"num_experts_per_tok": 2, "n_routed_experts": 4, "n_group": 1, "topk_group": 1}
"""What is set where a config has it and leaves it to the user."""

PROFILES: tuple[dict[str, Any], ...] = (
    {},
    {"num_key_value_heads": 4, "num_kv_heads": 4},
    {"head_dim": 8, "num_key_value_heads": 2},
    {"num_hidden_layers": 4, "num_layers": 4},
    {"num_hidden_layers": 8, "head_dim": 8},
    {"rotary_dim": 4, "attention_types": [[["global", "local"], 1]], "is_decoder": True},
    {"mamba_n_heads": 8, "mamba_d_head": 8, "n_mamba_heads": 2, "num_heads": 8, "expand": 2, "head_dim": 8},
    {"hidden_size": 64, "num_attention_heads": 4, "head_dim": 16},
    {"layer_types": ["full_attention"] * 2},
    {"use_cache": False, "mamba_n_heads": 8, "mamba_d_head": 8, "num_hidden_layers": 4},
)
"""What to try, in order, until a model of an architecture runs."""

_STAGES = {
    "embed_dim": 32,
    "depths": [2, 2],
    "window_size": 4,
    "patch_size": 4,
    "num_heads": [2, 4],
    "out_indices": [1, 2],
    "out_features": None,
}
_TAPS = {"num_hidden_layers": 4, "num_layers": 4, "backbone_out_indices": [0, 1, 2, 3]}
_TAPS |= {"out_indices": [1, 2, 3, 4], "neck_hidden_sizes": [16, 32, 32, 32]}

_TOWERS: dict[str, Any] = {"architecture": "test_vit", "model_args": {"embed_dim": 32}}
_TOWERS |= {"upsample_out_channels": [16], "upsample_kernel_sizes": [4]}
_TOWERS |= {"conv_out_channels": [16], "conv_kernel_sizes": [1]}
_BY_LAYER = {"intermediate_size": 48, "num_hidden_layers": 4, "activation_sparsity_pattern": [0.0] * 4}
_BY_LAYER |= {"layer_types": ["sliding_attention"] * 3 + ["full_attention"], "architecture": "test_vit"}
_BY_LAYER |= {"vocab_size_per_layer_input": VOCABULARY, "hidden_size_per_layer_input": 8}

_HELPER: dict[str, Any] = {"hidden_size_per_layer_input": 0, "vocab_size_per_layer_input": 0}
_HELPER |= {"num_hidden_layers": 4, "layer_types": ["sliding_attention", "full_attention"] * 2}

LATE_PROFILES: tuple[dict[str, Any], ...] = (
    {"image_size": 64, "patch_size": 2},
    {"image_size": 128, "patch_size": 4},
    _STAGES,
    _TAPS,
    _TAPS | {"reshape_hidden_states": False},
    _TOWERS,
    _BY_LAYER,
    {"n_group": 1, "topk_group": 1, "use_cache": False, "use_qformer_text_input": True},
    {"n_group": 1, "topk_group": 1, "layer_types": ["full_attention"] * 2, "num_hidden_layers": 2},
    {"num_filters": 4, "depths": [1] * 7},
    {"num_filters": 4, "latent_query_num": 4, "num_codebooks": 1},
    {"intermediate_size": 8, "vision_feature_layer": [1, 0]},
    _HELPER,
    {"context_size": 16, "hidden_size_per_layer_input": 0, "vocab_size_per_layer_input": VOCABULARY},
)
"""What to try when nothing else runs: larger images, stages, features of several depths."""


def small_config(config_class: Any, profile: dict[str, Any]) -> Any:
    """Build a config of a class with small numbers, its nested configs alike."""
    default = _default(config_class, profile)
    given = {
        name: _shrunk(value, SMALL_NUMBERS[name])
        for name, value in vars(default).items()
        if name in SMALL_NUMBERS
    }
    given |= {name: value for name, value in WHERE_NONE.items() if getattr(default, name, value) is None}
    given |= {name: value for name, value in (EXTRA | profile).items() if _takes(default, name)}
    given |= HASHED if _takes(default, "hash_seed") else {}
    if default.is_encoder_decoder:
        given["decoder_start_token_id"] = 1
    for name, value in vars(default).items():
        if hasattr(value, "to_dict") and hasattr(value, "model_type"):
            reads = CROSS if name == "decoder" and hasattr(value, "add_cross_attention") else {}
            given[name] = small_config(type(value), profile | reads).to_dict()
    return config_class(**given)


def _default(config_class: Any, profile: dict[str, Any]) -> Any:
    """Return the default config of a class, of small nested ones where it refuses its own."""
    from transformers import AutoConfig

    try:
        return config_class()
    except Exception:
        nested = getattr(config_class, "sub_configs_defaults", {})
        if not nested:
            raise
        kinds = {name: spec.model_type for name, spec in nested.items()}
        parts = {
            name: small_config(type(AutoConfig.for_model(kind)), profile) for name, kind in kinds.items()
        }
        return config_class(**{name: part.to_dict() for name, part in parts.items()})


def _takes(config: Any, name: str) -> bool:
    return name in vars(config) or f"_{name}" in vars(config)


def _shrunk(value: Any, small: Any) -> Any:
    if isinstance(value, list | tuple) and value and all(isinstance(item, int) for item in value):
        return type(value)(min(item, small) for item in value)
    return value if value is None or isinstance(value, bool | str) else small


SCALES = ((16, 2), (16, 4), (8, 2), (4, 2), (32, 4), (16, 8), (2, 2))
"""What to try after the profiles: what every width of the default config is divided by, and layers."""


def configs(model_class: Any) -> list[Callable[[], Any]]:
    """Return functions that make small configs of a model, in the order to try them."""
    return [partial(small_config, model_class.config_class, profile) for profile in PROFILES]


def scaled_configs(model_class: Any) -> list[Callable[[], Any]]:
    """Return functions that make configs to try when none of those runs, or reaches all of the model."""
    return [partial(_scaled_config, model_class.config_class, factor, n) for factor, n in SCALES]


def late_configs(model_class: Any) -> list[Callable[[], Any]]:
    """Return functions that make configs to try when no other runs."""
    return [partial(small_config, model_class.config_class, profile) for profile in LATE_PROFILES]


def _scaled_config(config_class: Any, factor: int, n_layers: int) -> Any:
    return config_class.from_dict(_completed(scaled(config_class().to_dict(), factor, n_layers)))


def _completed(config: dict[str, Any]) -> dict[str, Any]:
    """Add what the widths of a scaled config do not decide."""
    fixed = {
        name: value for name, value in EXTRA.items() if name not in ("vocab_size", "axial_pos_embds_dim")
    }
    fixed |= {name: value for name, value in WHERE_NONE.items() if config.get(name, value) is None}
    nested = {name: _completed(value) for name, value in config.items() if isinstance(value, dict)}
    return config | nested | {name: value for name, value in fixed.items() if name in config}
