"""Makes the arguments of a small model of transformers from the names in the signature of its ``forward``.

An argument that has no default, and one that the model asks for by name in what it raises, is made as well
(``asked_inputs``).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from tests.benchmarks.asked_inputs import asked_for, patched, required, with_all_media
from tests.benchmarks.images_in_text import lacks_images, microbatches, with_images
from tests.benchmarks.made_arguments import MAKERS, accepted_by
from tests.benchmarks.places_in_text import placed, set_tokens
from tests.benchmarks.small_sizes import BATCH, IMAGE, LARGEST_IMAGE, LENGTH, WORDS


def loss_of(output: Any) -> torch.Tensor:
    """Return the model's own loss, or one of its logits or first numbers where it has none."""
    if isinstance(output, dict):
        loss: torch.Tensor | None = output.get("loss")
        if loss is not None:
            return loss
        output = output["logits"] if "logits" in output else next(filter(_has_grad, output.values()))
    first: torch.Tensor = output[0] if isinstance(output, tuple | list) else output
    return first.float().pow(2).mean()


def _has_grad(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.requires_grad


@dataclass(frozen=True)
class Found:
    """A batch that runs.

    Args:
        batch: It.
        n_unreached: How many parts of the model it leaves without a gradient.
        messages: What other batches raised.
    """

    batch: dict[str, Any]
    n_unreached: int
    messages: tuple[str, ...] = ()


def batch_that_runs(model: nn.Module, kind: str) -> Found:
    """Make a batch that runs, a microbatch of it too: the first of those that leave out the fewest parts.

    Raises:
        Exception: What the last one raised, what the others did in its notes.
    """
    failed: Exception = ValueError("no batch")
    messages: dict[str, None] = {}
    found: Found | None = None
    for batch in batches(model, kind):
        try:
            loss_of(model(**batch)).backward()
            n_unreached = len(unreached(model, batch))
            loss_of(model(**microbatches(batch, 4)[0]))
        except Exception as error:
            failed = error
            messages[str(error)] = None
            continue
        finally:
            model.zero_grad(set_to_none=True)
        if found is None or n_unreached < found.n_unreached:
            found = Found(batch, n_unreached)
        if not n_unreached:
            break
    if found:
        return replace(found, messages=tuple(messages))
    for message in messages:
        failed.add_note(message)
    raise failed


def unreached(model: nn.Module, batch: dict[str, Any]) -> list[str]:
    """Return the parts of a model that a batch leaves without a gradient, and images that it should have.

    A part is a module one or two levels below the model, such as its tower of vision.
    """
    reached: dict[str, bool] = {}
    sizes: dict[str, int] = {}
    trained = ((name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad)
    for name, parameter in trained:
        path = name.split(".")[:-1]
        for part in {".".join(path[:depth]) for depth in (1, 2)}:
            reached[part] = reached.get(part, False) or _is_reached(parameter)
            sizes[part] = sizes.get(part, 0) + 1
    dark = [
        part
        for part, is_reached in reached.items()
        if not is_reached and (sizes[part] >= PART or TOWERS.search(part))
    ]
    return [*dark, *(["pixel_values"] if lacks_images(model, batch) else [])]


def _is_reached(parameter: nn.Parameter) -> bool:
    return parameter.grad is not None and bool(parameter.grad.any())


PART = 4
"""How many parameters a part has at least to be one that a batch should reach."""

TOWERS = re.compile("audio|vision|visual")
"""Parts that it should reach whatever their size."""

MASKS = {"input_features_mask", "feature_attention_mask"}
SOUND = ("input_features", "input_values", "audio_input_ids", "chunk_sample_lengths", *MASKS)
MEDIA = ("pixel_values", *SOUND)
"""What a model that reads text may be given besides."""


def batches(model: nn.Module, kind: str) -> Iterator[dict[str, Any]]:
    """Yield what to try: images in the text, as many as the model asks for; text alone; no labels."""
    given = whole = example(model, kind)
    text = {name: value for name, value in given.items() if name not in MEDIA}
    tokens = {}
    if "input_ids" in given and len(text) < len(given) and kind != "contrastive":
        tokens = set_tokens(model.config)
        for heard in _hearings(given):
            for batch in with_images(model, heard, text, tokens):
                yield batch
                yield from _sounding(model, batch, heard, tokens)
        given = text
    yield given
    if "labels" in given:
        yield {name: value for name, value in given.items() if name != "labels"}
    for start in (given, *_of_another_kind(given), *_hearings(whole), *_looking(model, whole)):
        for tried in (start, {name: value for name, value in start.items() if name != "labels"}):
            for asked in asked_for(model, tried):
                yield asked
                yield from placed(model, asked, tokens) if tokens else ()


def _hearings(given: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the batch, and without the masks of its sound if it has such."""
    yield given
    if given.keys() & MASKS:
        yield {name: value for name, value in given.items() if name not in MASKS}


def _sounding(
    model: nn.Module, batch: dict[str, Any], given: dict[str, Any], tokens: dict[str, int]
) -> Iterator[dict[str, Any]]:
    """Yield a batch with images that has sound as well, and the text the tokens for it."""
    sound = {name: value for name, value in given.items() if name in SOUND and name not in batch}
    if sound:
        for asked in asked_for(model, batch | sound):
            yield from placed(model, asked, tokens)


def _looking(model: nn.Module, given: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the batch with all that the model takes to look at, if that is more."""
    more = with_all_media(model, given)
    if len(more) > len(given):
        yield more


def _of_another_kind(given: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the batch with sound in place of its spectrogram."""
    if "input_features" in given:
        rest = {name: value for name, value in given.items() if not name.startswith("input_features")}
        yield rest | {"input_values": torch.randn(BATCH, 4000, generator=torch.Generator().manual_seed(1))}


def example(model: nn.Module, kind: str, batch: int = BATCH) -> dict[str, Any]:
    """Make the keyword arguments of a batch, with labels where the model takes them."""
    accepted = accepted_by(model)
    generator = torch.Generator().manual_seed(1)
    config: Any = model.config

    def ids(length: int) -> torch.Tensor:
        return torch.randint(3, WORDS, (batch, length), generator=generator)

    def noise(*shape: int) -> torch.Tensor:
        return torch.randn(batch, *shape, generator=generator)

    given: dict[str, Any] = {}
    text = kind in ("causal LM", "masked LM", "encoder-decoder", "vision-language", "contrastive")
    text = text or (kind == "speech seq2seq" and hasattr(config, "audio_token_id"))
    if text and "input_ids" in accepted:
        given["input_ids"] = ids(LENGTH)
        given["labels"] = ids(LENGTH)
        if "attention_mask" in accepted and kind != "contrastive":
            given["attention_mask"] = torch.ones(batch, LENGTH, dtype=torch.long)
    if "pixel_values" in accepted:
        size = _image_size(config)
        given |= patched(model, noise(getattr(config, "num_channels", 3) or 3, size, size))
        given.setdefault("labels", torch.arange(batch) % 2)
        if kind == "segmentation":
            given["labels"] = torch.zeros(batch, size, size, dtype=torch.long)
    for name in ("audio_input_ids", "chunk_sample_lengths"):
        if name in accepted:
            given[name] = MAKERS[name](config)
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
    given = {name: value for name, value in given.items() if name in accepted}
    return given | required(model, given)


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
