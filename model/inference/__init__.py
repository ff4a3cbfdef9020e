"""From questions to answers: prompts, prefix cache, decoding, scheduling, masks."""
