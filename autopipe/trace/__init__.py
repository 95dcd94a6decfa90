"""Capture: from a model and an example to one fx graph, its leaf modules kept whole."""

from autopipe.trace.capture import capture
from autopipe.trace.foreign import outside_modes
from autopipe.trace.one_look import look_again, one_look
from autopipe.trace.signature import Signature, signature_of

__all__ = ["Signature", "capture", "look_again", "one_look", "outside_modes", "signature_of"]
