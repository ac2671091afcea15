"""The image: built from the Dockerfile by buildah, and run as a kubelet's runtime would.

There is no container engine here. buildah builds and unpacks; mounts, user, capabilities and
read-only root are set by the same system calls that a runtime makes. Its seccomp filter is not.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[2]
CA = Path(os.environ.get("PIP_CERT") or "/etc/ssl/certs/ca-certificates.crt")


class Engine:
    """buildah with a store of its own."""

    def __init__(self, directory: Path) -> None:
        self.program = directory / "buildah"
        for driver in ("overlay", "vfs"):  # overlay on overlay is refused: in some containers
            self.program.write_text(
                "#!/bin/sh\n"
                f"exec buildah --root {directory}/store --runroot {directory}/run "
                f'--storage-driver {driver} "$@"\n'
            )
            self.program.chmod(0o755)
            if self._call("info").returncode == 0:
                break

    def _call(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(self.program), *arguments],
            env={**os.environ, "BUILDAH_ISOLATION": "chroot"},
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )

    def __call__(self, *arguments: str) -> str:
        """What buildah printed."""
        done = self._call(*arguments)
        assert done.returncode == 0, f"buildah {shlex.join(arguments)}\n{done.stderr}"
        return done.stdout.strip()

    def base(self, root: Path, name: str) -> str:
        """An image of a root."""
        container = self("from", "scratch")
        self("add", "--quiet", container, str(root), "/")
        self("commit", "--quiet", container, f"localhost/{name}")
        self("rm", container)
        return f"localhost/{name}"

    def build(self, base: str, tag: str, scratch: Path) -> str:
        """Run packaging/image; what it printed."""
        done = subprocess.run(
            [
                *[str(ROOT / "packaging" / "image"), tag, "--layers=false"],
                *["--secret", f"id=pip.conf,src={_pip_conf(scratch)}"],
                *["--secret", f"id=ca.pem,src={CA}"],
                *_wheel_folders(),
            ],
            env={
                **os.environ,
                "BUILDAH_ISOLATION": "chroot",
                "ENGINE": str(self.program),
                "BASE": base,
            },
            capture_output=True,
            text=True,
            check=False,
            timeout=400,
        )
        assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-5000:]
        return done.stdout

    def about(self, tag: str) -> dict[str, Any]:
        """Configuration and layers."""
        found: dict[str, Any] = json.loads(self("inspect", "--type", "image", tag))
        return found


def _pip_settings() -> dict[str, str]:
    """This machine's pip configuration, from files and environment, by its long names."""
    listed = subprocess.run(
        ["python3", "-m", "pip", "config", "list"], check=True, capture_output=True, text=True
    ).stdout
    found = re.findall(r"^(?:global|install|:env:)\.([\w-]+)=(.*)$", listed, re.MULTILINE)
    return {key: value.strip("'\"") for key, value in found}


def _pip_conf(scratch: Path) -> Path:
    """The same for the inside of a build: where packages come from, and whom to trust."""
    kept = {"index-url", "extra-index-url", "find-links", "no-index", "trusted-host", "proxy"}
    settings = {key: value for key, value in _pip_settings().items() if key in kept}
    settings["cert"] = "/run/secrets/ca.pem"
    path = scratch / "pip.conf"
    path.write_text("[global]\n" + "".join(f"{k} = {v}\n" for k, v in settings.items()))
    return path


def _wheel_folders() -> list[str]:
    places = _pip_settings().get("find-links", "").split()
    return [f"--volume={place}:{place}:ro" for place in places if Path(place).is_dir()]


class Mount(NamedTuple):
    """A folder or file of the host, and where it is put."""

    source: Path
    target: str
    read_only: bool = False


def _below(root: Path, path: str) -> Path:
    """Where a path of the image is here: its links lead inside the image, not to this machine."""
    place = root
    for part in Path(path).parts[1:]:
        place = place / part
        if place.is_symlink():
            link = place.readlink()
            place = _below(root, str(link)) if link.is_absolute() else place.parent / link
    return place


class Container:
    """An unpacked image with mounts, ready to run one program."""

    def __init__(self, engine: Engine, tag: str) -> None:
        self._engine = engine
        self._name = engine("from", tag)
        self.root = Path(engine("mount", self._name))
        config = engine.about(tag)["OCIv1"]["config"]
        self.user: str = config["User"]
        self.directory: str = config.get("WorkingDir") or "/"
        self.entrypoint: list[str] = config["Entrypoint"]
        self.command: list[str] = config["Cmd"]
        self.env = dict(each.split("=", 1) for each in config["Env"])

    def close(self) -> None:
        self._engine("rm", self._name)

    def start(
        self,
        arguments: Sequence[str],
        *,
        env: Mapping[str, str],
        mounts: Sequence[Mount],
        rights: Mapping[str, Any],
        log: Path,
    ) -> subprocess.Popen[bytes]:
        """Start the entry point with a container's `securityContext`."""
        at = shlex.quote(str(self.root))
        script = [f"mount --bind {at} {at}"]
        for mount in (Mount(Path("/proc"), "/proc"), Mount(Path("/dev"), "/dev"), *mounts):
            target = _below(self.root, mount.target)
            # A runtime makes the places of mounts before it closes the root.
            if mount.source.is_dir():
                target.mkdir(parents=True, exist_ok=True)
            else:
                target.parent.mkdir(parents=True, exist_ok=True)
                target.touch()
            there = shlex.quote(str(target))
            script.append(f"mount --rbind {shlex.quote(str(mount.source))} {there}")
            if mount.read_only:
                script.append(f"mount -o remount,bind,ro {there}")
        if rights.get("readOnlyRootFilesystem"):
            script.append(f"mount -o remount,bind,ro {at}")
        enter = 'cd "$0" && exec "$@"'
        script.append(
            f'exec chroot {at} sh -c {shlex.quote(enter)} {shlex.quote(self.directory)} "$@"'
        )
        setpriv = [
            "setpriv",
            f"--reuid={rights['runAsUser']}",
            f"--regid={rights['runAsGroup']}",
            "--clear-groups",
        ]
        if rights["capabilities"] == {"drop": ["ALL"]}:
            setpriv += ["--inh-caps=-all", "--ambient-caps=-all", "--bounding-set=-all"]
        if rights["allowPrivilegeEscalation"] is False:
            setpriv.append("--no-new-privs")
        command = ["unshare", "--mount", "sh", "-ec", " && ".join(script), "sh", *setpriv]
        with log.open("ab") as out:
            return subprocess.Popen(
                [*command, *self.entrypoint, *arguments],
                env={**self.env, **env},
                stdout=out,
                stderr=out,
            )


def programs(root: Path) -> set[str]:
    """Every program that is on a path in the image."""
    places = ("usr/bin", "usr/sbin", "usr/local/bin", "usr/local/sbin", "opt/venv/bin")
    return {
        path.name
        for place in places
        if (root / place).is_dir()
        for path in (root / place).iterdir()
    }


def stop(process: subprocess.Popen[bytes]) -> int:
    """Ask it to end, as a kubelet does; its exit status."""
    process.terminate()
    try:
        return process.wait(30)
    finally:
        process.kill()
        process.wait()
