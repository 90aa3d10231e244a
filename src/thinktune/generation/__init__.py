"""Prompts in, completions out: batched, seeded, stoppable, streamed."""
