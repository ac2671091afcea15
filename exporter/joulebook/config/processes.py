"""Keys of the configuration file about processes outside any scheduler; see `config.sections`."""

from __future__ import annotations

from typing import Annotated, Literal

from joulebook.config.section import Enabled, Section, doc

INFRASTRUCTURE = (
    "Xorg",
    "Xwayland",
    "gnome-shell",
    "kwin_x11",
    "kwin_wayland",
    "plasmashell",
    "weston",
    "nvidia-persistenced",
    "nvidia-powerd",
    "nvidia-cuda-mps-control",
    "nvidia-cuda-mps-server",
    "nvidia-smi",
    "nv-hostengine",
    "dcgm-exporter",
    "dcgmproftester",
)
"""Programs that serve everybody on a machine."""


class Processes(Section, frozen=True):
    """Processes outside any scheduler: containers, services, people's sessions."""

    enabled: Annotated[
        Enabled,
        doc(
            '"auto": where GPUs are read and the pids that the driver tells are those seen here; '
            "true: must work; false: such processes are nobody's (`unknown_holder`)."
        ),
    ] = "auto"
    infrastructure: Annotated[
        tuple[str, ...],
        doc(
            "Programs that are never workloads: display servers, daemons of the driver, monitors. "
            "One counts as such if its file belongs to root or it runs as a user of the system."
        ),
    ] = INFRASTRUCTURE
    pid_namespace: Annotated[
        Literal["auto", "host"],
        doc(
            '"auto": where `host.proc` does not show the host\'s processes (a container without '
            "hostPID and without the host's /proc) the daemon asks no source whose a process is, "
            'for pids mean others there; "host": they mean the same.'
        ),
    ] = "auto"
