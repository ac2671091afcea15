"""Debian in a folder: real roots to install packages in, and to stand in for base images.

mmdebstrap does what debootstrap does in a third of the time, by the mirror that this machine uses.
"""

from __future__ import annotations

import re
import shlex
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

_KEYS = "/usr/share/keyrings/debian-archive-keyring.gpg"


def _apt_says(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout


def mirror() -> str:
    """The address that this machine has Debian's packages from."""
    listed = _apt_says(
        *["apt-get", "indextargets", "--format", "$(REPO_URI)"],
        *["Created-By: Packages", "Origin: Debian"],
    ).split()
    archive = [uri for uri in listed if "security" not in uri]
    return (archive or ["http://deb.debian.org/debian"])[0]


def _transport() -> list[str]:
    """How this machine's apt reaches it: proxies and certificates."""
    dump = _apt_says("apt-config", "dump", "--format", '%f "%v"%n')
    wanted = re.compile(r'Acquire::(http|https|Retries|Check-Valid-Until)\b.*"[^"]')
    return [f"--aptopt={line}" for line in dump.splitlines() if wanted.match(line)]


def codename() -> str:
    """This machine's own release."""
    text = Path("/etc/os-release").read_text()
    return str(re.findall(r"^VERSION_CODENAME=(\w+)$", text, re.MULTILINE)[0])


def debootstrap(suite: str, include: Sequence[str], root: Path) -> Path:
    """A minimal Debian with some packages in `root`, which must not exist."""
    done = subprocess.run(
        [
            *["mmdebstrap", "--quiet", "--variant=minbase", f"--keyring={_KEYS}", "--mode=root"],
            *_transport(),
            *["--dpkgopt=path-exclude=/usr/share/man/*", "--dpkgopt=path-exclude=/usr/share/doc/*"],
            f"--include={','.join(include)}",
            *[suite, str(root), mirror()],
        ],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return root


def _inside(root: Path, command: Sequence[str], binds: Sequence[str]) -> list[str]:
    """The command in a mount namespace of its own, where `root` is a file system like any other."""
    at = shlex.quote(str(root))
    mounts = [f"mount --bind {at} {at}", *(f"mount --rbind {each} {at}{each}" for each in binds)]
    script = " && ".join([*mounts, f'exec chroot {at} "$@"'])
    return ["unshare", "--mount", "sh", "-ec", script, "sh", *command]


def environment(more: Mapping[str, str]) -> dict[str, str]:
    """What a program of that root finds in its environment: nothing of the tests'."""
    path = "/usr/sbin:/usr/bin:/sbin:/bin"
    return {"PATH": path, "LC_ALL": "C.UTF-8", "DEBIAN_FRONTEND": "noninteractive", **more}


def inside(root: Path, *command: str, binds: Sequence[str] = ("/proc", "/dev")) -> str:
    """What a command printed that succeeded in the root."""
    done = subprocess.run(
        _inside(root, command, binds),
        env=environment({}),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, f"{shlex.join(command)}\n{done.stdout}"
    return done.stdout


def start_inside(
    root: Path,
    *command: str,
    env: Mapping[str, str],
    log: Path,
    binds: Sequence[str] = ("/proc", "/sys", "/dev"),
) -> subprocess.Popen[bytes]:
    """A program of the root, left running; its output goes to `log`."""
    with log.open("ab") as out:
        return subprocess.Popen(
            _inside(root, command, binds), env=environment(env), stdout=out, stderr=out
        )


def copied(root: Path, parent: Path) -> Path:
    """The same root again, to change."""
    place = Path(tempfile.mkdtemp(prefix="root-", dir=parent)) / "root"
    subprocess.run(["cp", "-a", "--reflink=auto", str(root), str(place)], check=True, timeout=120)
    place.chmod(0o755)
    return place
