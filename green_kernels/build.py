"""What this installation was built with."""

from typing import Any

from green_kernels.ops import OPS
from green_kernels.ops._extension import _C


def build_info() -> dict[str, Any]:
    """Return the facts of the build: version, compiler, CUDA, and the kernels of each op.

    "kernels" maps each op to the devices for which a compiled kernel is registered with torch; the
    other facts are absent where the extension was not built (GREEN_KERNELS_NO_EXTENSION=1).
    """
    facts = _C.build_info() if _C else {}
    return {**facts, "kernels": {name: op.compiled_devices() for name, op in OPS.items()}}
