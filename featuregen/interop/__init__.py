"""Files of other tools: checkpoints of robustness, released tensors, exports."""
