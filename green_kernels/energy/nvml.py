"""NVML: a board's joules, watts, throttling and facts, each return code checked.

NVML is documented at https://docs.nvidia.com/deploy/nvml-api/. `nvml` is the pynvml module of the
package nvidia-ml-py, as `load` returns it, or a stand-in for it.
"""

from dataclasses import dataclass, field
from typing import Any

from green_kernels.energy.meter import Unavailable

MEMBER = {  # of nvmlValue_t, by nvmlValueType_t
    "NVML_VALUE_TYPE_DOUBLE": "dVal",
    "NVML_VALUE_TYPE_UNSIGNED_INT": "uiVal",
    "NVML_VALUE_TYPE_UNSIGNED_LONG": "ulVal",
    "NVML_VALUE_TYPE_UNSIGNED_LONG_LONG": "ullVal",
    "NVML_VALUE_TYPE_SIGNED_LONG_LONG": "sllVal",
    "NVML_VALUE_TYPE_SIGNED_INT": "siVal",
    "NVML_VALUE_TYPE_UNSIGNED_SHORT": "usVal",
}
ENERGY, INSTANT, AVERAGE = "energy", "instant power", "average power"
FIELDS = {  # quantity: NVML's field id, as old pynvml lacks names; its unit in J, W or s
    ENERGY: (83, 1e-3),
    INSTANT: (186, 1e-3),
    AVERAGE: (185, 1e-3),
    "power cap": (74, 1e-9),
    "thermal": (75, 1e-9),
    "thermal (software)": (269, 1e-9),
    "thermal (hardware)": (270, 1e-9),
    "power brake": (271, 1e-9),
}
THROTTLES = tuple(list(FIELDS)[3:])
EVENT_REASONS = {
    "idle": "nvmlClocksEventReasonGpuIdle",
    "application clocks": "nvmlClocksEventReasonApplicationsClocksSetting",
    "power cap": "nvmlClocksEventReasonSwPowerCap",
    "hardware slowdown": "nvmlClocksEventReasonHwSlowdown",
    "sync boost": "nvmlClocksEventReasonSyncBoost",
    "thermal (software)": "nvmlClocksEventReasonSwThermalSlowdown",
    "thermal (hardware)": "nvmlClocksEventReasonHwThermalSlowdown",
    "power brake": "nvmlClocksEventReasonHwPowerBrakeSlowdown",
    "display clocks": "nvmlClocksEventReasonDisplayClockSetting",
}


@dataclass(frozen=True)
class Sample:
    """What one call of nvmlDeviceGetFieldValues returned. What a board lacks is None or left out.

    timestamp: seconds since 1970 by NVML's own clock, which may be stepped; None if it gave none.
    instant_watts: of the last instants (25 ms of each 100 on A100 and H100). average_watts: of 1 s.
    throttled: seconds since the driver was loaded, by reason; "thermal" covers all thermal ones.
    errors: the reason for what is missing, by quantity.
    """

    timestamp: float | None
    joules: float | None
    instant_watts: float | None
    average_watts: float | None
    throttled: dict[str, float] = field(default_factory=dict)
    errors: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class PowerLimits:
    """Watts: what was asked for, what holds, and what may be asked for; None if not known."""

    requested: float | None
    enforced: float | None
    default: float | None
    least: float | None
    most: float | None


class Board:
    """A whole board, by its NVML handle. Every method raises Unavailable where NVML fails."""

    def __init__(self, nvml: Any, handle: Any):
        """Read the name and the UUID of a board."""
        self.nvml, self.handle = nvml, handle
        self.uuid = self.name = "a board of unknown name"
        self.uuid = self.ask("nvmlDeviceGetUUID")
        self.name = self.ask("nvmlDeviceGetName")
        self.member = {getattr(nvml, kind): member for kind, member in MEMBER.items()}

    def __str__(self) -> str:
        """Return how messages name the board."""
        return f"{self.name} ({self.uuid})"

    def ask(self, function: str, *args: Any) -> Any:
        """Return what an NVML function says of this board; raise Unavailable if it fails."""
        try:
            return getattr(self.nvml, function)(self.handle, *args)
        except self.nvml.NVMLError as error:
            raise Unavailable(f"{self}: {function} failed: {error}") from error

    def ask_if_supported(self, function: str, *args: Any) -> Any | None:
        """As `ask`, but None where board, driver or pynvml lacks the function, or denies it."""
        if not hasattr(self.nvml, function):
            return None
        try:
            return self.ask(function, *args)
        except Unavailable as error:
            if error.__cause__.value in (
                self.nvml.NVML_ERROR_NOT_SUPPORTED,
                self.nvml.NVML_ERROR_FUNCTION_NOT_FOUND,
                self.nvml.NVML_ERROR_NO_PERMISSION,
            ):
                return None
            raise

    def sample(self) -> Sample:
        """Return joules, watts and seconds throttled, by one call of nvmlDeviceGetFieldValues."""
        timestamp, values, errors = self._fields(tuple(FIELDS))
        return Sample(
            timestamp=timestamp,
            joules=values.get(ENERGY),
            instant_watts=values.get(INSTANT),
            average_watts=values.get(AVERAGE),
            throttled={reason: values[reason] for reason in THROTTLES if reason in values},
            errors=errors,
        )

    def joules(self) -> float:
        """Return joules since the driver was loaded, of the board and its memory."""
        _, values, errors = self._fields((ENERGY,))
        if ENERGY in errors:
            if errors[ENERGY] == str(self.nvml.NVMLError(self.nvml.NVML_ERROR_NOT_SUPPORTED)):
                raise Unavailable(
                    f"{self} has no total-energy counter; Volta and newer boards have one, "
                    "virtual GPUs do not"
                )
            raise Unavailable(f"{self}: NVML cannot read the energy counter: {errors[ENERGY]}")
        return values[ENERGY]

    def temperature(self) -> int | None:
        """Return the temperature of the GPU in C; None if the board does not tell."""
        return self.ask_if_supported("nvmlDeviceGetTemperature", self.nvml.NVML_TEMPERATURE_GPU)

    def sm_mhz(self) -> int | None:
        """Return the present SM clock in MHz; None if the board does not tell."""
        return self.ask_if_supported("nvmlDeviceGetClockInfo", self.nvml.NVML_CLOCK_SM)

    def supported_sm_clocks(self) -> list[int]:
        """Return the SM clocks that can be locked at the highest memory clock, in MHz, falling."""
        function = "nvmlDeviceGetSupportedGraphicsClocks"
        memory = self.ask_if_supported("nvmlDeviceGetSupportedMemoryClocks")
        clocks = memory and self.ask_if_supported(function, max(memory))
        if not clocks:
            raise Unavailable(f"{self} names no SM clocks that can be set")
        return sorted(set(clocks), reverse=True)

    def event_reasons(self) -> frozenset[str] | None:
        """Return why the clocks are not higher at present, by names of EVENT_REASONS.

        None if the board does not tell.
        """
        mask = self.ask_if_supported("nvmlDeviceGetCurrentClocksEventReasons")
        if mask is None:
            return None
        return frozenset(n for n, bit in EVENT_REASONS.items() if mask & getattr(self.nvml, bit))

    def processes(self) -> list[int]:
        """Return the ids of processes that compute here, as the host numbers them."""
        return sorted(p.pid for p in self.ask("nvmlDeviceGetComputeRunningProcesses"))

    def power_limits(self) -> PowerLimits:
        """Return the power limits in watts."""
        least, most = self.ask_if_supported("nvmlDeviceGetPowerManagementLimitConstraints") or (
            None,
            None,
        )
        return PowerLimits(
            requested=_watts(self.ask_if_supported("nvmlDeviceGetPowerManagementLimit")),
            enforced=_watts(self.ask_if_supported("nvmlDeviceGetEnforcedPowerLimit")),
            default=_watts(self.ask_if_supported("nvmlDeviceGetPowerManagementDefaultLimit")),
            least=_watts(least),
            most=_watts(most),
        )

    def driver(self) -> str:
        """Return the version of the driver."""
        try:
            return self.nvml.nvmlSystemGetDriverVersion()
        except self.nvml.NVMLError as error:
            raise Unavailable(f"{self}: nvmlSystemGetDriverVersion failed: {error}") from error

    def facts(self) -> dict[str, Any]:
        """Return what a record says of the board, as JSON values; None is not known.

        NVML cannot tell whether the SM clock is locked, so that is None.
        """
        limits = self.power_limits()
        ecc = self.ask_if_supported("nvmlDeviceGetEccMode")
        persistence = self.ask_if_supported("nvmlDeviceGetPersistenceMode")
        return {
            "uuid": self.uuid,
            "name": self.name,
            "driver": self.driver(),
            "vbios": self.ask_if_supported("nvmlDeviceGetVbiosVersion"),
            "part_number": self.ask_if_supported("nvmlDeviceGetBoardPartNumber"),
            "ecc": None if ecc is None else bool(ecc[0]),
            "persistence": None if persistence is None else bool(persistence),
            "power_limit_watts": limits.enforced,
            "default_power_limit_watts": limits.default,
            "least_power_limit_watts": limits.least,
            "most_power_limit_watts": limits.most,
            "max_sm_mhz": self.ask_if_supported(
                "nvmlDeviceGetMaxClockInfo", self.nvml.NVML_CLOCK_SM
            ),
            "locked_sm_mhz": None,
        }

    def refuse_mig(self) -> None:
        """Raise Unavailable if the board is in MIG mode."""
        mode = self.ask_if_supported("nvmlDeviceGetMigMode")
        if mode is not None and mode[0] == self.nvml.NVML_DEVICE_MIG_ENABLE:
            raise Unavailable(
                f"{self} is in MIG mode: its counter is of the whole board, not of this slice; "
                "disable MIG, or measure on a board without it"
            )

    def _fields(
        self, quantities: tuple[str, ...]
    ) -> tuple[float | None, dict[str, float], dict[str, str]]:
        """Return NVML's time, the values, and the reasons for those that are missing."""
        ids = [FIELDS[quantity][0] for quantity in quantities]
        entries = self.ask("nvmlDeviceGetFieldValues", ids)
        values, errors = {}, {}
        for quantity, entry in zip(quantities, entries, strict=True):
            if entry.nvmlReturn != self.nvml.NVML_SUCCESS:
                errors[quantity] = str(self.nvml.NVMLError(entry.nvmlReturn))
            elif entry.valueType not in self.member:
                errors[quantity] = f"NVML's value type {entry.valueType} is not known"
            else:
                value = getattr(entry.value, self.member[entry.valueType])
                values[quantity] = value * FIELDS[quantity][1]
        microseconds = entries[0].timestamp
        return (microseconds / 1e6 if microseconds > 0 else None), values, errors


class NvmlMeter:
    """The energy counter of one board: GPU and memory, whoever uses them."""

    name = "nvml"
    read_within = None  # 64 bits of millijoules do not wrap

    def __init__(self, board: Board, device: str = "cuda:0", tick: float = 0.1):
        """Read the counter once.

        device: how results name the board. tick: seconds between two updates of the counter; it
        is 20 to 100 ms by model, and without a `SensorProfile` the slowest is assumed.
        Raises Unavailable in MIG mode, or where the board has no such counter.
        """
        self.board, self.device, self.tick = board, device, tick
        board.refuse_mig()
        board.joules()

    def fresh(self) -> "NvmlMeter":
        """Return itself: no reading depends on another."""
        return self

    def read(self) -> float:
        """Return joules since the driver was loaded."""
        return self.board.joules()


def load() -> Any:
    """Return the pynvml module with NVML initialised; raise Unavailable with the reason if none."""
    try:
        import pynvml
    except ImportError:
        raise Unavailable("pynvml is not installed: pip install nvidia-ml-py") from None
    if not hasattr(pynvml, "_nvmlGetFunctionPointer"):
        raise Unavailable(
            "the pynvml that is installed is not NVIDIA's: pip uninstall pynvml nvidia-ml-py3, "
            "then pip install nvidia-ml-py"
        )
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        raise Unavailable(f"NVML cannot be initialised: {error}") from None
    return pynvml


def boards(nvml: Any) -> list[Board]:
    """Return the boards that this process may use, in NVML's order, which is that of the PCI bus.

    Raises Unavailable if one cannot be read.
    """
    found = []
    try:
        for index in range(nvml.nvmlDeviceGetCount()):
            try:
                handle = nvml.nvmlDeviceGetHandleByIndex(index)
            except nvml.NVMLError as error:
                if error.value == nvml.NVML_ERROR_NO_PERMISSION:  # another container's
                    continue
                raise
            found.append(Board(nvml, handle))
    except nvml.NVMLError as error:
        raise Unavailable(f"NVML cannot list the boards: {error}") from error
    return found


def _watts(milliwatts: int | None) -> float | None:
    return None if milliwatts is None else milliwatts / 1e3
