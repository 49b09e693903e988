"""Training: standard, adversarial, with early stopping, resumable, on several GPUs."""

from featuregen.training.loop import TrainingLog, can_group, train, train_many
from featuregen.training.resume import TrainingState

__all__ = ["TrainingLog", "TrainingState", "can_group", "train", "train_many"]
