"""Serving a trained model: paged cache, continuous batching, speculation, int8 weights. Begin with `engine.py`."""

from cs336_systems.inference.completion import Completion, Event
from cs336_systems.inference.engine import Engine
from cs336_systems.inference.sampling import SamplingParams

__all__ = ["Completion", "Engine", "Event", "SamplingParams"]
