"""The GPU order of each SLURM node of this host, read once and again when gres.conf changes."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

from joulebook.tenants.slurm.gres import GresMap
from joulebook.tenants.slurm.gresconf import load_gres

_DEFAULT_CONFS = (
    "/etc/slurm/slurm.conf",
    "/etc/slurm-llnl/slurm.conf",
    "/run/slurm/conf/slurm.conf",
)


def find_slurm_conf() -> Path:
    """Where slurm.conf is by SLURM's own rules (the file need not exist: configless)."""
    named = os.environ.get("SLURM_CONF")
    if named:
        return Path(named)
    return next((Path(c) for c in _DEFAULT_CONFS if Path(c).exists()), Path(_DEFAULT_CONFS[0]))


def find_program(name: str) -> str:
    """An absolute path for a program of SLURM's, or empty; services often lack sbin in PATH."""
    path = os.pathsep.join((os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin",
                            "/opt/slurm/bin", "/opt/slurm/sbin"))  # fmt: skip
    return shutil.which(name, path=path) or ""


class GresMaps:
    """`of(node)` never waits: `slurmd -G` runs in a thread, and `changed` is called after it."""

    def __init__(
        self, conf: Path, gres_conf: Path | None = None, *, slurmd: str, timeout_s: float = 5.0
    ) -> None:
        self._conf = conf
        self._gres_conf = conf.with_name("gres.conf") if gres_conf is None else gres_conf
        self._slurmd = slurmd
        self._timeout_s = timeout_s
        self._lock = threading.Lock()
        self._known: dict[str, GresMap | None] = {}
        self._loading: set[str] = set()
        self._stamp = self._stat()
        self.changed: Callable[[], None] = lambda: None

    @property
    def places(self) -> str:
        """Where the order of GPUs is looked for, in words."""
        asked = f"{self._slurmd} -G" if self._slurmd else "slurmd -G (there is no slurmd here)"
        return f"{self._gres_conf} nor {asked}"

    def of(self, node: str) -> tuple[bool, GresMap | None]:
        """Whether it is known by now, and the GPUs of a node (`None`: nobody can say)."""
        with self._lock:
            if node in self._known:
                return True, self._known[node]
            if node in self._loading:
                return False, None
        gres = load_gres(node, self._conf, self._gres_conf)
        with self._lock:
            if gres is not None or not self._slurmd:
                self._known[node] = gres
                return True, gres
            self._loading.add(node)
        threading.Thread(target=self._ask, args=(node,), name="slurmd-g", daemon=True).start()
        return False, None

    def refresh(self) -> None:
        """Forget what was read if gres.conf is another one now."""
        stamp = self._stat()
        with self._lock:
            if stamp != self._stamp:
                self._stamp = stamp
                self._known.clear()

    def _ask(self, node: str) -> None:
        gres = load_gres(
            node, self._conf, self._gres_conf, slurmd=self._slurmd, timeout_s=self._timeout_s
        )
        with self._lock:
            self._known[node] = gres
            self._loading.discard(node)
        self.changed()

    def _stat(self) -> tuple[int, int]:
        try:
            seen = self._gres_conf.stat()
        except OSError:
            return (0, 0)
        return (seen.st_ino, seen.st_mtime_ns)
