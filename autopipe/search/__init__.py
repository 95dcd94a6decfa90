"""Which stages, replicas, microbatches, schedule and recompute: by predicted time. Never loads torch."""

from autopipe.search.crossing import transfers_between
from autopipe.search.exchange import all_reduce_ms
from autopipe.search.explorer import Explored, Explorer
from autopipe.search.shapes import Shape, shapes_for
from autopipe.search.wishes import Wishes

__all__ = [
    "Explored",
    "Explorer",
    "Shape",
    "Wishes",
    "all_reduce_ms",
    "shapes_for",
    "transfers_between",
]
