"""An experiment: one config, one base dataset, one output folder; its models, datasets and results."""
