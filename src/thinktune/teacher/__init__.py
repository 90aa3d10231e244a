"""The teacher: a stronger model's reasonings, sampled, verified and kept as training rows."""
