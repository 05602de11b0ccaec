"""`python -m bench` at the repository root, `python -m green_kernels.bench` anywhere."""

import sys
from pathlib import Path

# At the root, this very folder is importable as `bench`, and triton_kernels/ in the place of
# OpenAI's package of that name.  Leave the root, and only installed packages are found.
root = Path(__file__).resolve().parent.parent
sys.path[:] = [entry for entry in sys.path if Path(entry).resolve() != root]

from green_kernels.bench.command import main  # noqa: E402

sys.exit(main())
