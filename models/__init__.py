"""Models that people really split, one a file, small by default and real in structure.

Every file named in `NAMES` follows the protocol of `models.protocol.ModelFile`: `build`, `example`,
`make_batch` and `loss`. This package loads no torch by itself; `models.protocol.load("gpt")` imports one.
"""

NAMES: tuple[str, ...] = (
    "gpt",
    "llama_like",
    "unet",
    "tied_lm",
    "two_tower",
    "mixture_of_experts",
    "encoder_decoder",
    "recommender",
    "lstm",
    "resnet",
)
"""The module names of the ten models, in the order in which tests and documents list them."""

__all__ = ["NAMES"]
