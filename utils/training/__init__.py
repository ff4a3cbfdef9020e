"""The training loop: DeepSpeed, checkpoints, processes, logs."""
