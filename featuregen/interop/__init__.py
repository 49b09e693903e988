"""Files of other tools: checkpoints of robustness, released tensors, exports."""

from featuregen.interop.export import FORMATS, export_dataset, replaced_folder
from featuregen.interop.load import is_model_file, load_model, model_header
from featuregen.interop.released import import_released
from featuregen.interop.robustness import is_checkpoint, load_checkpoint, save_checkpoint

__all__ = [
    "FORMATS",
    "export_dataset",
    "import_released",
    "is_checkpoint",
    "is_model_file",
    "load_checkpoint",
    "load_model",
    "model_header",
    "replaced_folder",
    "save_checkpoint",
]
