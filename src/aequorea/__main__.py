"""``python -m aequorea``."""

from aequorea.cli import main

main()
