"""Other people's files: checkpoints of `robustness`, the released tensors, exports."""

from featuregen.interop.checkpoints import is_checkpoint, load_checkpoint, save_checkpoint

__all__ = ["is_checkpoint", "load_checkpoint", "save_checkpoint"]
