"""Records: where they come from, how they are checked, rendered and packed."""
