"""From files on disk to a model: checkpoints, LoRA, adapters, quantisation, memory."""
