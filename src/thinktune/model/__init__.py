"""The decoder, its adapter, and the files both are kept in."""
