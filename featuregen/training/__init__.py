"""Training: standard, adversarial, with early stopping, resumable, on several GPUs."""
