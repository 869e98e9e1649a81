"""Rows of documents for training: stream, best fit, padding, and masks at their boundaries."""

from cs336_basics.packing.best_fit import BestFitPacker
from cs336_basics.packing.document_mask import document_ids, document_mask, document_positions
from cs336_basics.packing.packer import Packer, next_batch
from cs336_basics.packing.stream import StreamPacker

__all__ = [
    "BestFitPacker", "Packer", "StreamPacker", "document_ids", "document_mask", "document_positions", "next_batch",
]  # fmt: skip
