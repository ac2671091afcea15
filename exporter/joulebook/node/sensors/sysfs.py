"""Read small files of sysfs: a value, or an error with its remedy."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from joulebook.errors import SensorDenied, SensorError, SensorMissing, SensorRetry

_MOST = 65_536


def read_bytes(path: Path, remedy: str = "") -> bytes:
    """Return the content of a file, at most 64 KiB. `remedy` is what to do if permission is
    missing.

    Raises `SensorMissing`, `SensorDenied`, `SensorRetry`.
    """
    try:
        with path.open("rb", buffering=0) as file:
            return file.read(_MOST) or b""
    except FileNotFoundError:
        raise SensorMissing(f"{path} does not exist", reason="missing") from None
    except PermissionError:
        raise SensorDenied(f"{path} is not readable", reason="denied", remedy=remedy) from None
    except OSError as error:
        raise SensorRetry(
            f"{path} cannot be read: {error.strerror}", reason="unreadable", remedy=remedy
        ) from None


def read_text(path: Path, remedy: str = "") -> str:
    """Return the text of a file without blanks around it. Raises as `read_bytes` does."""
    return read_bytes(path, remedy).decode("utf-8", "replace").strip()


def read_int(path: Path, remedy: str = "") -> int:
    """The whole number in a file. Raises as `read_bytes` does; `SensorRetry` if it is none."""
    text = read_text(path, remedy)
    try:
        return int(text)
    except ValueError:
        raise SensorRetry(
            f"{path} contains {text[:40]!r}, not a number", reason="unreadable"
        ) from None


def text_or(path: Path, default: str = "") -> str:
    """Return the text of a file that may be absent."""
    try:
        return read_text(path)
    except SensorError:
        return default


def int_or_none(path: Path) -> int | None:
    """Return the number in a file that may be absent."""
    try:
        return read_int(path)
    except SensorError:
        return None


def numbered(directory: Path, pattern: str) -> Iterator[tuple[int, Path]]:
    """Yield the entries whose name matches `pattern`, by the number that is its first group."""
    matcher = re.compile(pattern)
    try:
        names = sorted(entry.name for entry in directory.iterdir())
    except OSError:
        return
    found = [(int(m[1]), directory / name) for name in names if (m := matcher.fullmatch(name))]
    yield from sorted(found)
