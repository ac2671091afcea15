"""The last good answers on disk, so that a restart, or a feed that is down, leaves no hole.

One JSON file for each quantity, replaced as a whole. If it cannot be read or written, that is
logged once, and it is not used.
"""

from __future__ import annotations

import contextlib
import logging
import os
import tempfile
from pathlib import Path

import msgspec

from joulebook.core.money.rates import Point, StepCurve
from joulebook.log import LogOnce
from joulebook.rates.contract import Quantity

logger = logging.getLogger(__name__)
_once = LogOnce(logger)

VERSION = 1
_MAX_BYTES = 16 * 2**20


class CachedRates(msgspec.Struct, frozen=True):
    """The last data of a source. `identity` names source, zone and currency."""

    identity: str
    fetched_utc_s: int
    points: tuple[Point, ...]
    v: int = VERSION


_KEPT = msgspec.json.Decoder(CachedRates)


class Cache:
    """A folder; `None` keeps nothing, `read_only` nothing new."""

    def __init__(self, folder: Path | None, *, read_only: bool = False) -> None:
        self._folder = folder
        self._read_only = read_only

    def load(self, quantity: Quantity, identity: str) -> CachedRates | None:
        """Return the cached data of that source; `None` if there is none, or another's."""
        if self._folder is None:
            return None
        path = self._path(self._folder, quantity)
        try:
            if path.stat().st_size > _MAX_BYTES:
                raise ValueError("too large")
            kept = _KEPT.decode(path.read_bytes())
            StepCurve(kept.points)
        except FileNotFoundError:
            return None
        except (OSError, ValueError, RecursionError) as error:  # msgspec's errors are ValueErrors.
            _once.failed(f"read {quantity}", "ignoring %s: %s", path, error)
            return None
        return kept if (kept.v, kept.identity) == (VERSION, identity) else None

    def store(self, quantity: Quantity, kept: CachedRates) -> None:
        """Replace the cached data in one step: a reader or a crash finds the old or the new."""
        if self._folder is None or self._read_only:
            return
        path = self._path(self._folder, quantity)
        key = f"write {quantity}"
        try:
            self._folder.mkdir(mode=0o755, parents=True, exist_ok=True)
            handle, name = tempfile.mkstemp(prefix=f".{quantity}-", dir=self._folder)
            try:
                with os.fdopen(handle, "wb") as file:
                    file.write(msgspec.json.encode(kept))
                    file.flush()
                    os.fsync(file.fileno())
                Path(name).chmod(0o644)  # Prices are no secret, and `joulebook rates` reads them.
                Path(name).replace(path)
            except OSError:
                with contextlib.suppress(OSError):
                    Path(name).unlink()
                raise
        except OSError as error:
            _once.failed(key, "cannot cache %s: %s", path, error.strerror)
        else:
            _once.recovered(key, "%s is cached again", path)

    @staticmethod
    def _path(folder: Path, quantity: Quantity) -> Path:
        return folder / f"{quantity}.json"
