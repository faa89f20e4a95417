"""Training: typed configuration, the DeepSpeed engine, the training loop, checkpoints and logs."""
