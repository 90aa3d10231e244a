"""The trackers that can stand beside metrics.jsonl: one a file, each behind a relay."""
