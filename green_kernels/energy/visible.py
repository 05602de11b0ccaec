"""Which NVML board a CUDA device is: CUDA renumbers and hides boards, and NVML does not."""

import os
import re
import sys
from collections.abc import Mapping, Sequence

from green_kernels.energy import nvml
from green_kernels.energy.meter import Unavailable

UNSURE = (
    "CUDA numbers the fastest board first, and the boards here differ, so which of them "
    "cuda:{} is cannot be told without asking CUDA: set CUDA_DEVICE_ORDER=PCI_BUS_ID, or list "
    "UUIDs in CUDA_VISIBLE_DEVICES"
)


def visible_boards(
    environment: Mapping[str, str], boards: Sequence[tuple[str, str]]
) -> list[int | None]:
    """Return the boards that CUDA shows: item i is the position in `boards` of device cuda:i.

    environment: of the process, for CUDA_VISIBLE_DEVICES and CUDA_DEVICE_ORDER.
    boards: (UUID, name) of all boards in the order of their PCI bus, as nvidia-smi lists them.
    None stands for a board that cannot be told: CUDA orders by speed unless CUDA_DEVICE_ORDER is
    PCI_BUS_ID, so an index means nothing where the boards are of more than one name.

    The list is of indices or of UUIDs, whichever comes first; a UUID may be cut short as long as
    it fits one board only. The first entry that names no board ends the list, and a board named
    twice makes it empty. Raises Unavailable for MIG slices, which have no counter of their own.
    Source: CUDA programming guide, "CUDA environment variables".
    """
    by_bus = environment.get("CUDA_DEVICE_ORDER") == "PCI_BUS_ID"
    ordered = by_bus or len({name for _, name in boards}) <= 1
    entries = environment.get("CUDA_VISIBLE_DEVICES")
    if entries is None:
        return [i if ordered else None for i in range(len(boards))]
    entries = [entry.strip() for entry in entries.split(",")]
    if entries[0].startswith("MIG-"):
        raise Unavailable(
            f"CUDA_VISIBLE_DEVICES is {entries[0]}: the energy counter is of the whole board, "
            "not of a MIG slice"
        )
    by_uuid = entries[0].startswith("GPU-")
    found: list[int] = []
    for entry in entries:
        board = _by_uuid(entry, boards) if by_uuid else _by_index(entry, len(boards))
        if board is None:
            break
        if board in found:
            return []
        found.append(board)
    return [board if by_uuid or ordered else None for board in found]


def board_of(
    index: int,
    boards: "Sequence[nvml.Board]",
    environment: Mapping[str, str] = os.environ,
) -> "nvml.Board":
    """Return the board of device cuda:`index`; raise Unavailable where that is not known.

    CUDA itself is asked where torch is loaded and can use it; elsewhere the environment tells.
    """
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        return _ask_cuda(torch, index, boards)
    shown = visible_boards(environment, [(board.uuid, board.name) for board in boards])
    if index >= len(shown):
        setting = environment.get("CUDA_VISIBLE_DEVICES")
        why = "" if setting is None else f", as CUDA_VISIBLE_DEVICES is {setting!r}"
        raise Unavailable(
            f"there is no cuda:{index}: of {len(boards)} boards CUDA shows {len(shown)}{why}"
        )
    if shown[index] is None:
        raise Unavailable(UNSURE.format(index))
    return boards[shown[index]]


def _ask_cuda(torch, index: int, boards: "Sequence[nvml.Board]") -> "nvml.Board":
    if index >= torch.cuda.device_count():
        raise Unavailable(f"there is no cuda:{index}: CUDA shows {torch.cuda.device_count()}")
    try:
        uuid = str(torch.cuda.get_device_properties(index).uuid)
    except RuntimeError as error:  # as in a forked process, or with too old a driver
        raise Unavailable(f"CUDA does not say which board cuda:{index} is: {error}") from None
    if not uuid.startswith(("GPU-", "MIG-")):
        uuid = f"GPU-{uuid}"
    for board in boards:
        if board.uuid == uuid:
            return board
    raise Unavailable(
        f"cuda:{index} is {uuid}, which is none of NVML's boards: a MIG slice has no counter"
    )


def _by_uuid(entry: str, boards: Sequence[tuple[str, str]]) -> int | None:
    if not entry.startswith("GPU-"):
        return None
    fitting = [i for i, (uuid, _) in enumerate(boards) if uuid.startswith(entry)]
    return fitting[0] if len(fitting) == 1 else None


def _by_index(entry: str, count: int) -> int | None:
    """Read the number that an entry starts with, as CUDA's strtol does; "1x" is 1."""
    number = re.match(r"\+?([0-9]+)", entry)
    if number is None or int(number[1]) >= count:
        return None
    return int(number[1])
