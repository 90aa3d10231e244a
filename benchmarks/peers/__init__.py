"""Other people's LoRA training steps, timed on the documents that ours is timed on."""
