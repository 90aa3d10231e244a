"""lm-evaluation-harness scores our models: ``python -m thinktune.harness run ...``."""
