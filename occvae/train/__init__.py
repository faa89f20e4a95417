"""Training: typed configuration, the DeepSpeed engine, the loop, checkpoints and logs."""
