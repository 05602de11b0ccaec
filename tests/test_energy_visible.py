"""Which board a CUDA device is: CUDA's rules for its environment, on boards that are simulated."""

import sys
from types import SimpleNamespace

import pytest
import torch
from fakes.clock import Clock
from fakes.nvml import FakeBoard, FakeNvml
from hypothesis import given
from hypothesis import strategies as st

from green_kernels import energy
from green_kernels.energy import Unavailable, measure, nvml, visible_boards
from green_kernels.energy.visible import board_of

A, B, C = (
    "GPU-8932f937-d72c-4106-c12f-20bd9faed9f6",
    "GPU-8932aaaa-d72c-4106-c12f-20bd9faed9f6",
    "GPU-11111111-d72c-4106-c12f-20bd9faed9f6",
)
SAME = [(A, "H200"), (B, "H200"), (C, "H200")]
MIXED = [(A, "T400"), (B, "H200"), (C, "H200")]


def shown(devices, boards=SAME, order=None):
    environment = {"CUDA_VISIBLE_DEVICES": devices, "CUDA_DEVICE_ORDER": order}
    return visible_boards({k: v for k, v in environment.items() if v is not None}, boards)


@pytest.mark.parametrize(
    "devices, boards",
    [
        (None, [0, 1, 2]),
        ("2,1", [2, 1]),
        (" 2 , 0", [2, 0]),
        ("", []),
        ("-1", []),
        ("0,2,-1,1", [0, 2]),  # the example of CUDA's programming guide
        ("0,7,1", [0]),
        ("0,x,1", [0]),
        ("0,,1", [0]),
        ("1x,2y", [1, 2]),
        ("1,0,1", []),
        (A, [0]),
        (f"{C},{A}", [2, 0]),
        ("GPU-1,GPU-8932f", [2, 0]),
        ("GPU-8932", []),  # fits two boards
        ("GPU-1,GPU-8932,GPU-8932f", [2]),
        ("GPU-1,GPU-99", [2]),
        ("GPU-1,GPU-11", []),  # one board twice
        ("GPU-1,0", [2]),
        ("0,GPU-1", [0]),
        ("GPU-", []),
        ("gpu-1", []),
        ("NoDevFiles", []),
    ],
)
def test_the_list_is_read_as_cuda_reads_it(devices, boards):
    assert shown(devices) == boards


@pytest.mark.parametrize("devices", ["MIG-GPU-8932f937/1/2", "MIG-41b35146-3b9a,0"])
def test_a_slice_has_no_counter(devices):
    with pytest.raises(Unavailable, match="the whole board, not of a MIG slice"):
        shown(devices)


@pytest.mark.parametrize("devices, boards", [(None, [None] * 3), ("2,1", [None] * 2), (B, [1])])
def test_boards_that_differ_have_no_order_but_their_uuids(devices, boards):
    assert shown(devices, MIXED) == boards
    assert shown(devices, MIXED, "FASTEST_FIRST") == boards
    assert None not in shown(devices, MIXED, "PCI_BUS_ID")


hexadecimal = st.text("0123456789abcdef", min_size=1, max_size=12)
entries = st.one_of(
    st.integers(-2, 5).map(str),
    hexadecimal.map("GPU-{}".format),
    st.sampled_from([A, B, C, "", "x", "GPU-8932", "GPU-1"]),
    st.text(max_size=4),
)
lists = st.lists(entries, max_size=6).map(",".join)


@given(lists, st.sampled_from([SAME, MIXED, []]), st.sampled_from([None, "PCI_BUS_ID"]))
def test_any_list_shows_boards_that_exist_and_each_once(devices, boards, order):
    if devices.startswith("MIG-"):
        return
    positions = shown(devices, boards, order)
    known = [position for position in positions if position is not None]
    assert len(positions) <= len(boards) or not boards
    assert len(set(known)) == len(known)
    assert all(0 <= position < len(boards) for position in known)


@given(lists, lists)
def test_what_follows_an_invalid_entry_changes_nothing(first, rest):
    if first.startswith("MIG-"):
        return
    assert shown(f"{first},-1,{rest}") == shown(f"{first},-1")


@given(st.permutations([A, B, C]), st.integers(12, 40))
def test_uuids_and_their_beginnings_show_the_same_boards(uuids, length):
    expected = [[A, B, C].index(uuid) for uuid in uuids]
    assert shown(",".join(uuids)) == shown(",".join(u[:length] for u in uuids)) == expected


@given(st.lists(st.integers(0, 2), unique=True, min_size=1))
def test_indices_and_uuids_show_the_same_boards(indices):
    assert shown(",".join(map(str, indices))) == shown(",".join(SAME[i][0] for i in indices))


def boards(of):
    return [SimpleNamespace(uuid=uuid, name=name) for uuid, name in of]


@pytest.fixture
def no_cuda(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: False)


def test_the_environment_tells_where_cuda_cannot(no_cuda):
    assert board_of(1, boards(SAME), {"CUDA_VISIBLE_DEVICES": "2,0"}).uuid == A
    with pytest.raises(Unavailable, match="no cuda:2: of 3 boards CUDA shows 2, as .* is '2,0'"):
        board_of(2, boards(SAME), {"CUDA_VISIBLE_DEVICES": "2,0"})
    with pytest.raises(Unavailable, match="no cuda:3: of 3 boards CUDA shows 3$"):
        board_of(3, boards(SAME), {})


def test_boards_that_differ_need_their_order_set(no_cuda):
    with pytest.raises(Unavailable, match="which of them cuda:0 is .*CUDA_DEVICE_ORDER=PCI_BUS_ID"):
        board_of(0, boards(MIXED), {})
    assert board_of(0, boards(MIXED), {"CUDA_DEVICE_ORDER": "PCI_BUS_ID"}).uuid == A


@pytest.fixture
def cuda(monkeypatch):
    """A torch that shows the boards C and A, in this order, whatever the environment says."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    uuids = [C.removeprefix("GPU-"), A.removeprefix("GPU-"), "00000000-slice"]
    monkeypatch.setattr(
        torch.cuda, "get_device_properties", lambda i: SimpleNamespace(uuid=uuids[i])
    )


def test_cuda_itself_is_asked_where_it_can_be(cuda):
    environment = {"CUDA_VISIBLE_DEVICES": "1"}  # changed after CUDA had read it
    assert [board_of(i, boards(MIXED), environment).uuid for i in (0, 1)] == [C, A]
    with pytest.raises(Unavailable, match="cuda:2 is GPU-00000000-slice, .*MIG slice"):
        board_of(2, boards(MIXED), environment)
    with pytest.raises(Unavailable, match="no cuda:3: CUDA shows 3"):
        board_of(3, boards(MIXED), environment)


def test_cuda_that_fails_is_a_reason(cuda, monkeypatch):
    def forked(index):
        raise RuntimeError("Cannot re-initialize CUDA in forked subprocess")

    monkeypatch.setattr(torch.cuda, "get_device_properties", forked)
    with pytest.raises(Unavailable, match="which board cuda:0 is: Cannot re-initialize CUDA"):
        board_of(0, boards(SAME))


@pytest.fixture
def two_boards(monkeypatch, no_cuda):
    """A machine with two H200, of which the second draws twice as much as the first."""
    clock = Clock()
    made = [FakeBoard(uuid=A), FakeBoard(uuid=C)]
    library = FakeNvml(clock, made)
    library.nvmlInit()
    made[0].set_power(300.0)
    made[1].set_power(600.0)
    monkeypatch.setattr(nvml, "load", lambda: library)
    monkeypatch.setattr(sys.modules["green_kernels.energy.measure"], "_found", {})
    return clock


def test_a_window_measures_the_board_that_cuda_shows(two_boards, monkeypatch):
    clock = two_boards
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", f"{C},{A}")
    with measure(["cuda:0", 1], clock=clock) as window:
        clock.sleep(5.0)
    assert window.joules == {
        "cuda:0": pytest.approx(3000.0, rel=0.003),
        "cuda:1": pytest.approx(1500.0, rel=0.003),
    }
    assert window.identities == {"cuda:0": C, "cuda:1": A}
    assert window.sources == {"cuda:0": "nvml", "cuda:1": "nvml"}


def test_a_hidden_board_is_not_measured(two_boards, monkeypatch):
    clock = two_boards
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    with measure(["cuda", "cuda:0", "cuda:1"], clock=clock) as window:
        clock.sleep(5.0)
    assert window.joules == {"cuda:0": pytest.approx(3000.0, rel=0.003), "cuda:1": None}
    assert "CUDA shows 1" in window.reasons["cuda:1"] and window.total is None


def test_a_change_of_what_is_visible_is_noticed(two_boards, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    assert energy.find_meters("cuda")["cuda:0"].board.uuid == A
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    assert energy.find_meters("cuda")["cuda:0"].board.uuid == C
