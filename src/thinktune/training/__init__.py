"""From packed rows to a trained adapter."""
