"""A pynvml of simulated boards on a virtual clock: known watts in, NVML's own view of them out.

Hand `FakeNvml(clock, boards=[FakeBoard(...)])` over in the place of the pynvml module. Constants,
structures and errors are pynvml's own. What is published when follows the sensors of A100 and
H100: https://arxiv.org/abs/2312.02741.
"""

import random
from collections import Counter
from functools import wraps
from types import SimpleNamespace

import pynvml

from fakes.draw import BoxcarCounter, Draw

NS = 1e9
THROTTLES = {  # reason: field of its cumulative nanoseconds, bit of the event reasons
    "power cap": (
        pynvml.NVML_FI_DEV_CLOCKS_EVENT_REASON_SW_POWER_CAP,
        pynvml.nvmlClocksEventReasonSwPowerCap,
    ),
    "thermal": (pynvml.NVML_FI_DEV_PERF_POLICY_THERMAL, 0),
    "thermal (software)": (
        pynvml.NVML_FI_DEV_CLOCKS_EVENT_REASON_SW_THERM_SLOWDOWN,
        pynvml.nvmlClocksEventReasonSwThermalSlowdown,
    ),
    "thermal (hardware)": (
        pynvml.NVML_FI_DEV_CLOCKS_EVENT_REASON_HW_THERM_SLOWDOWN,
        pynvml.nvmlClocksEventReasonHwThermalSlowdown,
    ),
    "power brake": (
        pynvml.NVML_FI_DEV_CLOCKS_EVENT_REASON_HW_POWER_BRAKE_SLOWDOWN,
        pynvml.nvmlClocksEventReasonHwPowerBrakeSlowdown,
    ),
}
REASON_OF = {field: reason for reason, (field, _) in THROTTLES.items()}


class FakeBoard:
    """A board that draws the watts it is told to, and its sensors. It is its own NVML handle.

    tick, phase: of the energy counter, in s. coverage: the part of each tick that the counter
    sees, at the tick's end; 1.0 is all. counter_gain: what it shows for each joule.
    counter_joules: what it shows at the start.
    power_tick, power_phase: of the power readings. instant_window, average_window: what they are
    means of, in s. power_noise: their standard deviation in W. noise: of the drawn power itself,
    a level anew each second. ramp: time constant of a change of power. heat: see `Draw`.
    limits: least, default and most watts. clocks: the supported SM clocks in MHz.
    field_errors: NVML error codes by field. errors: NVML error codes by function.
    mig: 0 or 1, or None for a board without it.
    """

    def __init__(
        self,
        uuid="GPU-aaaa0000-0000-0000-0000-000000000000",
        name="NVIDIA H200",
        *,
        idle_watts=80.0,
        tick=0.1,
        phase=0.0,
        coverage=1.0,
        counter_gain=1.0,
        counter_joules=1_000_000.0,
        power_tick=0.1,
        power_phase=0.0,
        instant_window=0.025,
        average_window=1.0,
        power_noise=0.0,
        noise=0.0,
        ramp=0.0,
        heat=(30.0, 0.06, 20.0),
        limits=(200.0, 700.0, 700.0),
        clocks=tuple(range(1980, 195, -15)),
        mig=0,
        seed=0,
    ):
        self.uuid, self.name = uuid, name
        self.tick, self.phase, self.coverage = tick, phase, coverage
        self.counter_gain, self.counter_joules = counter_gain, counter_joules
        self.power_tick, self.power_phase, self.power_noise = power_tick, power_phase, power_noise
        self.windows = {
            pynvml.NVML_FI_DEV_POWER_INSTANT: instant_window,
            pynvml.NVML_FI_DEV_POWER_AVERAGE: average_window,
        }
        self.demand, self.noise, self.ramp, self.heat, self.seed = (
            idle_watts,
            noise,
            ramp,
            heat,
            seed,
        )
        self.least, self.default, self.most = limits
        self.limit = self.default
        self.clocks, self.memory_clocks, self.locked = clocks, (3201, 2619, 1593), None
        self.pids, self.persistence, self.ecc, self.mig = [], 1, 1, mig
        self.vbios, self.part_number = "96.00.A5.00.01", "692-2G520-0200-000"
        self.field_errors, self.errors, self.lost_at = {}, {}, float("inf")
        self.frozen = None
        self.throttles = {reason: (0.0, 0.0, 0.0) for reason in THROTTLES}

    def start(self, clock):
        """Exist from now on."""
        self.clock = clock
        self.draw = Draw(clock(), self.demand, self.ramp, self.heat, self.noise, self.seed)
        self.first = self._tick(self.tick, self.phase)
        self.boxcar = BoxcarCounter(
            self.draw, self.phase, self.tick, self.coverage * self.tick, self.first
        )

    def set_power(self, watts):
        """Draw `watts` from now on, as far as the power limit allows."""
        self.demand = watts
        self.draw.set(self.clock(), min(watts, self.limit))

    def set_limit(self, watts):
        """Limit the drawn power from now on."""
        self.limit = watts
        self.set_power(self.demand)

    def true_joules(self):
        """Joules drawn since the start, exactly."""
        return self.draw.joules(self.clock())

    def throttle(self, reason, fraction):
        """Spend this fraction of the time throttled for the reason, from now on."""
        now = self.clock()
        self.throttles[reason] = (now, self.throttled(reason), fraction)

    def throttled(self, reason):
        """Seconds throttled for the reason."""
        since, seconds, fraction = self.throttles[reason]
        return seconds + fraction * (self.clock() - since)

    def reset_counter(self):
        """Let the counter begin anew at zero, as when the driver is reloaded."""
        self.counter_joules -= self.counter()

    def turn_counter_back(self, joules):
        """Take joules off the counter."""
        self.counter_joules -= joules

    def freeze_counter(self):
        """Publish nothing new from now on."""
        self.frozen = self.counter()

    def lose(self, at=None):
        """Fall off the bus now, or at a time."""
        self.lost_at = self.clock() if at is None else at

    def counter(self):
        """The joules that the counter shows."""
        if self.frozen is not None:
            return self.frozen
        tick = self._tick(self.tick, self.phase)
        if self.coverage < 1:
            seen = self.boxcar.joules(tick)
        else:
            seen = self.draw.joules(self.phase + tick * self.tick)
        return self.counter_joules + self.counter_gain * seen

    def watts(self, field):
        """The watts that a power field shows."""
        tick = self._tick(self.power_tick, self.power_phase)
        watts = self.draw.mean(self.power_phase + tick * self.power_tick, self.windows[field])
        if self.power_noise:
            watts += random.Random(f"{self.seed} {field} {tick}").gauss(0.0, self.power_noise)
        return max(watts, 0.0)

    def field(self, field):
        """Type, member of the union and value of a field; None where there is none such."""
        if field == pynvml.NVML_FI_DEV_TOTAL_ENERGY_CONSUMPTION:
            value = int(self.counter() * 1e3 + 1e-6)
            return pynvml.NVML_VALUE_TYPE_UNSIGNED_LONG_LONG, "ullVal", value
        if field in self.windows:
            return pynvml.NVML_VALUE_TYPE_UNSIGNED_INT, "uiVal", round(self.watts(field) * 1e3)
        if field in REASON_OF:
            value = int(self.throttled(REASON_OF[field]) * NS)
            return pynvml.NVML_VALUE_TYPE_UNSIGNED_LONG_LONG, "ullVal", value
        return None

    def _tick(self, period, phase):
        return int((self.clock() - phase) / period + 1e-6)


def function(method):
    """Count calls, and fail where the test wants it; the first argument is most often a board."""
    name = method.__name__

    @wraps(method)
    def called(nvml, *args):
        nvml.calls[name] += 1
        nvml._fail_if_told(name, args[0] if args and isinstance(args[0], FakeBoard) else None)
        return method(nvml, *args)

    return called


class FakeNvml:
    """What stands in for the pynvml module. calls: how often each function was called."""

    def __init__(self, clock, boards=None, driver="580.65.06"):
        self.clock, self.driver = clock, driver
        self.boards = [FakeBoard()] if boards is None else boards
        self.calls, self.faults, self.initialised = Counter(), {}, False
        self.arrays = {}
        for board in self.boards:
            board.start(clock)

    def __getattr__(self, name):
        """Take constants, structures and errors from pynvml, but no function."""
        if name.startswith(("NVML", "c_nvml", "nvmlClocksEventReason", "_nvmlGetFunctionPointer")):
            return getattr(pynvml, name)
        raise AttributeError(f"the simulated NVML has no {name}")

    def fail(self, name, code, after=0, at=None, times=None):
        """Let a function fail: after so many more calls, or from a time on; so many times."""
        self.faults[name] = SimpleNamespace(code=code, after=after, at=at, times=times)

    def heal(self, name):
        """Let a function work again."""
        del self.faults[name]

    def _fail_if_told(self, name, board):
        if board is not None:
            if self.clock() >= board.lost_at:
                raise pynvml.NVMLError(pynvml.NVML_ERROR_GPU_IS_LOST)
            if name in board.errors:
                raise pynvml.NVMLError(board.errors[name])
        fault = self.faults.get(name)
        if fault is None or (fault.at is not None and self.clock() < fault.at):
            return
        if fault.after > 0:
            fault.after -= 1
        elif fault.times is None or fault.times > 0:
            fault.times = None if fault.times is None else fault.times - 1
            raise pynvml.NVMLError(fault.code)

    @function
    def nvmlInit(self):
        self.initialised = True

    @function
    def nvmlSystemGetDriverVersion(self):
        return self.driver

    @function
    def nvmlDeviceGetCount(self):
        if not self.initialised:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_UNINITIALIZED)
        return len(self.boards)

    @function
    def nvmlDeviceGetHandleByIndex(self, index):
        return self.boards[index]

    @function
    def nvmlDeviceGetUUID(self, board):
        return board.uuid

    @function
    def nvmlDeviceGetName(self, board):
        return board.name

    @function
    def nvmlDeviceGetFieldValues(self, board, fields):
        array = self.arrays.setdefault(len(fields), pynvml.c_nvmlFieldValue_t * len(fields))()
        microseconds = int(self.clock() * 1e6)
        for entry, wanted in zip(array, fields, strict=True):
            field, scope = wanted if isinstance(wanted, tuple) else (wanted, 0)
            entry.fieldId, entry.scopeId, entry.timestamp = field, scope, microseconds
            value = None if field in board.field_errors else board.field(field)
            if value is None:
                code = board.field_errors.get(field, pynvml.NVML_ERROR_NOT_SUPPORTED)
                entry.nvmlReturn = code
            else:
                entry.valueType = value[0]
                setattr(entry.value, value[1], value[2])
        return array

    @function
    def nvmlDeviceGetTemperature(self, board, sensor):
        return round(board.draw.celsius(self.clock()))

    @function
    def nvmlDeviceGetClockInfo(self, board, kind):
        assert kind == pynvml.NVML_CLOCK_SM
        return board.clocks[0] if board.locked is None else board.locked

    @function
    def nvmlDeviceGetMaxClockInfo(self, board, kind):
        assert kind == pynvml.NVML_CLOCK_SM
        return board.clocks[0]

    @function
    def nvmlDeviceGetCurrentClocksEventReasons(self, board):
        mask = 0
        for reason, (_, bit) in THROTTLES.items():
            capped = reason == "power cap" and board.demand > board.limit
            if board.throttles[reason][2] > 0 or capped:
                mask |= bit
        return mask

    @function
    def nvmlDeviceGetComputeRunningProcesses(self, board):
        return [SimpleNamespace(pid=pid, usedGpuMemory=2**30) for pid in board.pids]

    @function
    def nvmlDeviceGetMigMode(self, board):
        if board.mig is None:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)
        return [board.mig, board.mig]

    @function
    def nvmlDeviceGetPersistenceMode(self, board):
        return board.persistence

    @function
    def nvmlDeviceGetEccMode(self, board):
        return [board.ecc, board.ecc]

    @function
    def nvmlDeviceGetVbiosVersion(self, board):
        return board.vbios

    @function
    def nvmlDeviceGetBoardPartNumber(self, board):
        return board.part_number

    @function
    def nvmlDeviceGetPowerManagementLimit(self, board):
        return round(board.limit * 1e3)

    @function
    def nvmlDeviceGetEnforcedPowerLimit(self, board):
        return round(board.limit * 1e3)

    @function
    def nvmlDeviceGetPowerManagementDefaultLimit(self, board):
        return round(board.default * 1e3)

    @function
    def nvmlDeviceGetPowerManagementLimitConstraints(self, board):
        return [round(board.least * 1e3), round(board.most * 1e3)]

    @function
    def nvmlDeviceSetPowerManagementLimit(self, board, milliwatts):
        if not board.least <= milliwatts / 1e3 <= board.most:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_INVALID_ARGUMENT)
        board.set_limit(milliwatts / 1e3)

    @function
    def nvmlDeviceGetSupportedMemoryClocks(self, board):
        return list(board.memory_clocks)

    @function
    def nvmlDeviceGetSupportedGraphicsClocks(self, board, memory_mhz):
        return list(board.clocks)

    @function
    def nvmlDeviceSetGpuLockedClocks(self, board, least, most):
        board.locked = most

    @function
    def nvmlDeviceResetGpuLockedClocks(self, board):
        board.locked = None
