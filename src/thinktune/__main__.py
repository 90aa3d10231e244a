"""``python -m thinktune``."""

from thinktune.cli import main

main()
