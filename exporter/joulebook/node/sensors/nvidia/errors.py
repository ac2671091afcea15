"""What each error code of NVML means to Joulebook: the exception, the label value, the remedy.

Codes are those of `nvmlReturn_t` in `nvml.h`; a test holds this table against `pynvml`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple, TypeVar

import pynvml

from joulebook.errors import (
    SensorDenied,
    SensorError,
    SensorLost,
    SensorMissing,
    SensorRetry,
    SensorUnsupported,
)

T = TypeVar("T")

UNINITIALIZED = 1
INVALID_ARGUMENT = 2
NOT_SUPPORTED = 3
NOT_FOUND = 6
INSUFFICIENT_SIZE = 7
FUNCTION_NOT_FOUND = 13
GPU_IS_LOST = 15
UNKNOWN = 999


class Meaning(NamedTuple):
    """How one code is raised (`kind`), counted (`reason`) and explained (`remedy`)."""

    kind: type[SensorError]
    reason: str
    remedy: str


_NEVER = "Nothing to do: this GPU or driver does not support that query."
_OLD = "Upgrade the NVIDIA driver; until then, that value is left out."
_AGAIN = "It is retried at the next poll; if it persists, see `dmesg` for NVRM and Xid lines."
_RESET = "Drain the node and reset the GPU (`nvidia-smi --gpu-reset`) or reboot; see `dmesg`."

MEANINGS: Mapping[int, Meaning] = {
    UNINITIALIZED: Meaning(
        SensorLost, "uninitialized", "The driver was reloaded; it is reopened automatically."
    ),
    INVALID_ARGUMENT: Meaning(
        SensorRetry,
        "invalid_argument",
        "The driver no longer knows the GPU by its handle; if it persists, restart Joulebook.",
    ),
    NOT_SUPPORTED: Meaning(SensorUnsupported, "not_supported", _NEVER),
    4: Meaning(
        SensorDenied,
        "no_permission",
        "Run Joulebook as root, or give it read access to /dev/nvidiactl and /dev/nvidia*.",
    ),
    5: Meaning(SensorRetry, "already_initialized", _AGAIN),
    NOT_FOUND: Meaning(SensorRetry, "not_found", _AGAIN),
    INSUFFICIENT_SIZE: Meaning(SensorRetry, "insufficient_size", _AGAIN),
    8: Meaning(
        SensorLost, "insufficient_power", "Attach the GPU's external power cables and reboot."
    ),
    9: Meaning(
        SensorMissing,
        "driver_not_loaded",
        "Load the NVIDIA kernel module (`modprobe nvidia`; in a container, also map /dev/nvidia*).",
    ),
    10: Meaning(SensorRetry, "timeout", _AGAIN),
    11: Meaning(SensorLost, "irq_issue", _RESET),
    12: Meaning(
        SensorMissing,
        "library_not_found",
        "Install the NVIDIA driver's libnvidia-ml.so.1, or put it on LD_LIBRARY_PATH; in a "
        "container use the NVIDIA runtime with NVIDIA_DRIVER_CAPABILITIES=utility.",
    ),
    FUNCTION_NOT_FOUND: Meaning(SensorUnsupported, "function_not_found", _OLD),
    14: Meaning(
        SensorLost, "corrupted_inforom", "The GPU's infoROM is damaged: have the card serviced."
    ),
    GPU_IS_LOST: Meaning(SensorLost, "gpu_is_lost", _RESET),
    16: Meaning(SensorLost, "reset_required", _RESET),
    17: Meaning(
        SensorDenied,
        "operating_system",
        "The system blocked the driver: check cgroup device rules, seccomp and SELinux.",
    ),
    18: Meaning(
        SensorLost,
        "driver_mismatch",
        "Library and kernel module have different versions, as after an upgrade: reload the "
        "module or reboot, then restart Joulebook.",
    ),
    19: Meaning(SensorRetry, "in_use", "Another program holds the GPU; it is retried."),
    20: Meaning(SensorRetry, "out_of_memory", "Free memory on the node; it is retried."),
    21: Meaning(SensorRetry, "no_data", _AGAIN),
    22: Meaning(SensorUnsupported, "vgpu_ecc_not_supported", _NEVER),
    23: Meaning(SensorRetry, "insufficient_resources", _AGAIN),
    24: Meaning(SensorUnsupported, "freq_not_supported", _NEVER),
    25: Meaning(SensorUnsupported, "version_mismatch", _OLD),
    26: Meaning(SensorUnsupported, "deprecated", "Upgrade Joulebook: the driver dropped a call."),
    27: Meaning(SensorRetry, "not_ready", _AGAIN),
    28: Meaning(SensorMissing, "gpu_not_found", "Check with `lspci` that the card is still there."),
    29: Meaning(SensorRetry, "invalid_state", _AGAIN),
    30: Meaning(SensorUnsupported, "reset_type_not_supported", _NEVER),
    UNKNOWN: Meaning(SensorRetry, "unknown", _AGAIN),
}

ABSENT = frozenset({NOT_SUPPORTED, FUNCTION_NOT_FOUND, 25, 26})
"""Codes of queries that a driver will never support."""


def meaning(code: int) -> Meaning:
    """Return the meaning of a code; one that is newer than this table is `unknown`."""
    return MEANINGS.get(code, MEANINGS[UNKNOWN])


def error(code: int, call: str) -> SensorError:
    """Return the exception for `code`, as returned by the NVML function `call`."""
    known = meaning(code)
    text = f"{call}: {known.reason.replace('_', ' ')} (NVML code {code})"
    return known.kind(text, reason=known.reason, remedy=known.remedy)


def implausible(call: str, what: str, value: object) -> SensorError:
    """Return the exception for an answer that cannot be true."""
    return SensorRetry(
        f"{call}: {value!r:.80} is implausible",
        reason=f"{what}_implausible",
        remedy=f"It is ignored. {_AGAIN}",
    )


def ask(function: Callable[..., T], *arguments: object) -> T:
    """Call a function of the binding, with its exceptions made ours."""
    try:
        return function(*arguments)
    except pynvml.NVMLError as e:
        raise error(int(e.value), getattr(function, "__name__", "NVML")) from None
    except UnicodeDecodeError as e:
        raise implausible(getattr(function, "__name__", "NVML"), "text", e.object) from None


def maybe(function: Callable[..., T], *arguments: object) -> T | None:
    """Return the same for what a GPU need not know: `None` in place of every error."""
    try:
        return ask(function, *arguments)
    except SensorError:
        return None
