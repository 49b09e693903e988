"""What models and datasets are worth: accuracy, transfer, label audit, label flips, gradient masking."""
