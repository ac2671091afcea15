"""Every error code of NVML has a typed error, a stable word and a remedy."""

from __future__ import annotations

import re

import pynvml
import pytest

from joulebook.errors import (
    SensorDenied,
    SensorError,
    SensorLost,
    SensorMissing,
    SensorRetry,
    SensorUnsupported,
)
from joulebook.node.sensors.nvidia.errors import ABSENT, MEANINGS, ask, error, maybe, meaning

CODES = {
    value: name.removeprefix("NVML_ERROR_")
    for name, value in vars(pynvml).items()
    if name.startswith("NVML_ERROR_")
}


@pytest.mark.parametrize("code", CODES)
def test_every_code_of_the_binding_is_a_typed_error_with_a_remedy(code: int) -> None:
    raised = error(code, "nvmlSomething")
    assert type(raised) is not SensorError
    assert re.fullmatch(r"[a-z][a-z_]{3,30}", raised.reason)
    assert raised.remedy.endswith(".")
    assert f"(NVML code {code})" in str(raised)
    assert "nvmlSomething" in str(raised)


def test_the_table_has_each_code_and_each_reason_once() -> None:
    assert set(MEANINGS) == set(CODES)
    assert len({known.reason for known in MEANINGS.values()}) == len(MEANINGS)


@pytest.mark.parametrize(
    ("code", "kind", "reason"),
    [
        (pynvml.NVML_ERROR_UNINITIALIZED, SensorLost, "uninitialized"),
        (pynvml.NVML_ERROR_NOT_SUPPORTED, SensorUnsupported, "not_supported"),
        (pynvml.NVML_ERROR_NO_PERMISSION, SensorDenied, "no_permission"),
        (pynvml.NVML_ERROR_DRIVER_NOT_LOADED, SensorMissing, "driver_not_loaded"),
        (pynvml.NVML_ERROR_TIMEOUT, SensorRetry, "timeout"),
        (pynvml.NVML_ERROR_LIBRARY_NOT_FOUND, SensorMissing, "library_not_found"),
        (pynvml.NVML_ERROR_FUNCTION_NOT_FOUND, SensorUnsupported, "function_not_found"),
        (pynvml.NVML_ERROR_GPU_IS_LOST, SensorLost, "gpu_is_lost"),
        (pynvml.NVML_ERROR_RESET_REQUIRED, SensorLost, "reset_required"),
        (pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH, SensorLost, "driver_mismatch"),
        (pynvml.NVML_ERROR_UNKNOWN, SensorRetry, "unknown"),
    ],
)
def test_what_the_caller_can_do_about_it(code: int, kind: type[SensorError], reason: str) -> None:
    assert isinstance(error(code, "f"), kind)
    assert meaning(code).reason == reason


def test_a_code_newer_than_the_table_may_work_at_the_next_look() -> None:
    raised = error(4711, "f")
    assert isinstance(raised, SensorRetry)
    assert raised.reason == "unknown"
    assert "4711" in str(raised)


def test_only_lasting_answers_say_that_something_is_absent() -> None:
    kinds = {meaning(code).kind for code in ABSENT}
    assert kinds == {SensorUnsupported}


def test_exceptions_of_the_binding_become_ours() -> None:
    def fails() -> None:
        raise pynvml.NVMLError(pynvml.NVML_ERROR_TIMEOUT)

    with pytest.raises(SensorRetry, match="fails: timeout") as caught:
        ask(fails)
    assert caught.value.__suppress_context__
    assert maybe(fails) is None
    assert ask(lambda: 5) == maybe(lambda: 5) == 5
