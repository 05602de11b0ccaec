"""Keeps the repository's root off sys.path, for `pytest bench`."""

import sys
from pathlib import Path

# `python -m pytest` puts the root there, where green_kernels/ lacks what setup.py adds to it, and
# this folder would be a second bench.
root = Path(__file__).resolve().parent.parent
sys.path[:] = [entry for entry in sys.path if Path(entry).resolve() != root]
