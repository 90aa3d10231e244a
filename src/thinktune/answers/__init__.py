"""Final answers: how one is found in a text, and when it equals the known truth."""
