"""What data, model and evaluation agree on: prompts, tokens, image transforms, batches."""
