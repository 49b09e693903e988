"""The stages of an experiment, their cache by settings, and resuming."""

from featuregen.pipeline.reproduce import reproduce
from featuregen.pipeline.workshop import Examples, Trained, Workshop

__all__ = ["Examples", "Trained", "Workshop", "reproduce"]
