"""Other people's files: checkpoints of `robustness`, the released tensors, exports."""

from featuregen.interop.checkpoints import is_checkpoint, load_checkpoint, save_checkpoint
from featuregen.interop.exports import export_dataset
from featuregen.interop.released import import_released

__all__ = ["export_dataset", "import_released", "is_checkpoint", "load_checkpoint", "save_checkpoint"]
