"""Files of other tools: checkpoints of robustness, released tensors, exports."""

from featuregen.interop.export import FORMATS, export_dataset, replaced_folder
from featuregen.interop.released import import_released
from featuregen.interop.robustness import is_checkpoint, load_checkpoint, save_checkpoint

__all__ = [
    "FORMATS",
    "export_dataset",
    "import_released",
    "is_checkpoint",
    "load_checkpoint",
    "replaced_folder",
    "save_checkpoint",
]
