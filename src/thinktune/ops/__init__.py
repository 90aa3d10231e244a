"""One fused operation a file, each with a plain twin in `reference`."""
