"""Builds architectures of transformers small, from their own config classes, with an example that has a loss.

A config is made with small numbers wherever its constructor takes one of the names in ``SMALL``, its nested
configs alike; where no such model runs, with the default numbers divided (``scaled_config``). Arguments are
made from the names in the signature of ``forward``.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import nn

from tests.benchmarks.scaled_config import scaled

BATCH, LENGTH, IMAGE, VOCABULARY = 8, 10, 32, 99
LIMIT, LARGEST_IMAGE = 80_000_000, 256

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
    ("d_latents",): 32,
    ("num_latents", "num_self_attends_per_block"): 4,
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
    "pad_token_id": 0,
    "mm_tokens_per_image": 4,
    "num_kv_shared_layers": 0,
    "axial_pos_shape": [2, LENGTH // 2],
    "axial_pos_embds_dim": [16, 16],
    "encoder_hash_byte_group_vocab": VOCABULARY,
}
"""What is set wherever a config has it, None or not."""

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


def small_config(config_class: Any, profile: dict[str, Any]) -> Any:
    """Build a config of a class with small numbers, its nested configs alike."""
    default = config_class()
    given = {name: _shrunk(value, _SMALL[name]) for name, value in vars(default).items() if name in _SMALL}
    given |= {name: value for name, value in WHERE_NONE.items() if getattr(default, name, value) is None}
    given |= {name: value for name, value in (EXTRA | profile).items() if name in vars(default)}
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


SCALES = ((16, 2), (16, 4), (8, 2), (4, 2), (32, 4), (16, 8), (2, 2))
"""What to try after the profiles: what every width of the default config is divided by, and layers."""


def configs(model_class: Any) -> Iterator[Any]:
    """Yield functions that make small configs of a model, in the order to try them."""
    for profile in PROFILES:
        yield partial(small_config, model_class.config_class, profile)
    for factor, n_layers in SCALES:
        yield partial(_scaled_config, model_class.config_class, factor, n_layers)


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


def build(name: str, make_config: Callable[[], Any]) -> nn.Module:
    """Build a model by its class name, small, in train mode.

    Raises:
        ValueError: If it has more than ``LIMIT`` parameters all the same.
    """
    import transformers

    model_class = getattr(transformers, name)
    config = make_config()
    if hasattr(config, "is_decoder"):
        config.is_decoder = "Causal" in name or "LMHead" in name
    with torch.device("meta"):
        n_parameters = sum(parameter.numel() for parameter in model_class(config).parameters())
    if n_parameters > LIMIT:
        raise ValueError(f"{n_parameters / 1e6:.0f} million parameters")
    torch.manual_seed(0)
    model: nn.Module = model_class(config)
    return model.train()


def build_that_runs(name: str, kind: str) -> tuple[nn.Module, dict[str, Any]]:
    """Build a model with the first small config that runs forward and backward, and its batch.

    Raises:
        Exception: What the first config raised.
    """
    import transformers

    failed: list[Exception] = []
    for make_config in configs(getattr(transformers, name)):
        try:
            model = build(name, make_config)
            batch = batch_that_runs(model, kind)
        except Exception as error:
            failed.append(error)
            continue
        return model, batch
    raise failed[0]


def batch_that_runs(model: nn.Module, kind: str) -> dict[str, Any]:
    """Make a batch that runs forward and backward, with images in the text where the model allows it.

    Raises:
        Exception: What the last one raised.
    """
    failed: Exception = ValueError("no batch")
    for batch in batches(model, kind):
        try:
            loss_of(model(**batch)).backward()
        except Exception as error:
            failed = error
            continue
        model.zero_grad(set_to_none=True)
        return batch
    raise failed


MEDIA = ("pixel_values", "input_features", "input_values", "input_features_mask", "feature_attention_mask")
"""What a model that reads text may be given besides."""


def batches(model: nn.Module, kind: str) -> Iterator[dict[str, Any]]:
    """Yield what to try: images in the text, as many as the model asks for; text alone; no labels."""
    given = example(model, kind)
    text = {name: value for name, value in given.items() if name not in MEDIA}
    if "input_ids" in given and len(text) < len(given) and kind != "contrastive":
        image_token = set_image_token(model.config)
        yield from _with_images(model, given, image_token)
        if "pixel_values" in given:
            yield from _with_images(
                model, given | {"pixel_values": given["pixel_values"][:, None]}, image_token
            )
        given = text
    yield given
    if "labels" in given:
        yield {name: value for name, value in given.items() if name != "labels"}


def _with_images(model: nn.Module, given: dict[str, Any], token: int | None) -> Iterator[dict[str, Any]]:
    """Yield a batch, or the one with as many image tokens in front as the model says that it misses."""
    try:
        model(**given)
    except Exception as error:
        wanted = re.search(r"features:? (\d+)", str(error))
        if not wanted or token is None:
            return
        images = torch.full((BATCH, int(wanted[1]) // BATCH), token)
        longer = {name: torch.cat([images, given[name]], 1) for name in ("input_ids", "labels")}
        if "attention_mask" in given:
            longer["attention_mask"] = torch.ones_like(longer["input_ids"])
        given = given | longer
    yield given


def set_image_token(config: Any) -> int | None:
    """Let the place of an image in a text be a token of the vocabulary that no text has."""
    names = [name for name in ("image_token_id", "image_token_index") if hasattr(config, name)]
    token = vocabulary(config) - 1
    for name in names:
        setattr(config, name, token)
    return token if names else None


def vocabulary(config: Any) -> int:
    """Return the size of a model's vocabulary, at most that of the text."""
    parts = [config, *(getattr(config, name, None) for name in ("text_config", "decoder", "llm_config"))]
    sizes = [getattr(part, "vocab_size", None) for part in parts]
    return min([VOCABULARY, *(size for size in sizes if isinstance(size, int) and size > 8)])


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
        for name in ("input_features_mask", "feature_attention_mask"):
            given[name] = torch.ones(batch, given["input_features"].shape[1], dtype=torch.long)
    elif "input_values" in accepted:
        is_spectrogram = "spectrogram" in config.model_type
        given["input_values"] = noise(*_spectrogram(config)) if is_spectrogram else noise(4000)
    if kind == "audio classification":
        given["labels"] = torch.arange(batch) % 2
    elif kind in ("speech", "speech seq2seq"):
        given.setdefault("labels", ids(4))
    if kind == "contrastive":
        given["return_loss"] = True
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
            side = int(size[0] if isinstance(size, list | tuple) else size)
            is_of_any_size = side > LARGEST_IMAGE and not hasattr(part, "patch_size")
            return 2 * IMAGE if is_of_any_size else side
    return IMAGE
