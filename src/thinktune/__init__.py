"""Teach a distilled reasoning model your chain of thought, and prove what changed."""
