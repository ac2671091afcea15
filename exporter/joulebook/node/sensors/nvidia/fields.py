"""What the driver answers: the fields asked for in one call, their layout, and the limits of all.

Values beyond the limits are rejected (`api`, `processes`).
"""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final

from joulebook.node.sensors.nvidia.errors import UNKNOWN

MAX_DEVICES = 256
"""No machine of 2026 has more GPUs than some tens."""

MAX_ENERGY_MJ = 1 << 53
"""1 kW for 285 years; in microjoules it fits into the 63 bits of the ledger."""

MAX_UPTIME_S = 1 << 31
MAX_THROTTLE_NS = 1 << 62
MAX_MEMORY_BYTES = 1 << 50
MAX_POWER_MW = 10_000_000
"""No GPU of 2026 draws 10 kW, whatever limit it reports."""

DEFAULT_POWER_MW = 3_000_000
PLAUSIBLE_FACTOR = 2
"""Transients may exceed the highest power limit that can be set; by this factor they do not."""

MAX_TEMPERATURE_C = 255
MAX_CLOCK_MHZ = 100_000


_Fields = Sequence[tuple[int, int]]
"""Field ids, each with its scope."""

_ONLY_32_BITS = 1
"""The value type of a field (NVML_VALUE_TYPE_UNSIGNED_INT) whose upper half is undefined."""

POWER_AVERAGE, POWER_INSTANT = 185, 186
GPU_SCOPE, MODULE_SCOPE = 0, 1
"""The scope of power: the GPU, or the module around it, including its CPU (superchips)."""

THROTTLE_FIELDS: Final = {
    74: "power",
    75: "thermal",
    76: "sync_boost",
    77: "board_limit",
    78: "low_utilization",
    79: "reliability",
    80: "app_clocks",
    81: "base_clocks",
    269: "sw_thermal",
    270: "hw_thermal",
    271: "hw_power_brake",
}
"""Field ids of the cumulative clock-event counters (ns), and the label value of each."""

FIELDS = (
    *(
        (field, scope)
        for scope in (GPU_SCOPE, MODULE_SCOPE)
        for field in (POWER_AVERAGE, POWER_INSTANT)
    ),
    *((field, GPU_SCOPE) for field in THROTTLE_FIELDS),
)
POWERS = 4
REASONS = tuple(THROTTLE_FIELDS.values())
# nvmlFieldValue_t: id, scope, timestamp, latency, value type, return code, value.
_FIELD = struct.Struct("=IIqqIiQ")


class FieldValues:
    """Several fields of one GPU, read in one call."""

    def __init__(
        self, function: Callable[..., int] | None, handle: object, fields: _Fields
    ) -> None:
        # Written over the array before every call: a value the driver does not touch is then an
        # error, never the one of the call before.
        self._questions = b"".join(
            _FIELD.pack(field, scope, 0, 0, 0, UNKNOWN, 0) for field, scope in fields
        )
        self._answers = struct.Struct("=" + "24xIiQ" * len(fields))
        self.buffer = (ctypes.c_char * len(self._questions))()
        self._call: Callable[[], int] | None = (
            None if function is None else partial(function, handle, len(fields), self.buffer)
        )

    def answers(self) -> tuple[int, ...]:
        """Return value type, return code and value of each field; nothing if the call failed."""
        ctypes.memmove(self.buffer, self._questions, len(self._questions))
        if self._call is None or self._call():
            return ()
        return self._answers.unpack_from(self.buffer)

    def ask(self) -> list[int | None]:
        """Return the values in order; `None` if not reported."""
        return values(self.answers()) or [None] * (len(self._questions) // _FIELD.size)


def values(answers: Sequence[int]) -> list[int | None]:
    """Decode answers, each with its own return code (`None`: not supported)."""
    return [
        None if code else value & 0xFFFFFFFF if kind == _ONLY_32_BITS else value
        for kind, code, value in zip(answers[::3], answers[1::3], answers[2::3], strict=True)
    ]
