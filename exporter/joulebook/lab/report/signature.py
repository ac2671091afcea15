"""Sign what leaves the lab, and check such a signature, with OpenSSH's `ssh-keygen`.

A researcher has an SSH key already, in an agent or on a security key too, and a reviewer needs
nothing of Joulebook's: `ssh-keygen -Y verify -n joulebook` checks the same file.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from joulebook.errors import ConfigError, InputError
from joulebook.untrusted_files import read_named, read_named_text

NAMESPACE = "joulebook"
"""A signature for another purpose by the same key is no signature of a statement."""

SUFFIX = ".sig"

_MOST_BYTES = 1 << 20
_TIMEOUT_S = 120.0
"""Somebody may have to type a passphrase or touch a key."""


def sign(text: str, key: Path) -> str:
    """Return the signature of `text` by a private key (`~/.ssh/id_ed25519`).

    Raises `ConfigError` with what `ssh-keygen` says.
    """
    if key.exists() and not (key.is_file() and key.stat().st_size <= _MOST_BYTES):
        raise ConfigError(f"--sign {key}: expected a private key (~/.ssh/id_ed25519)")
    done = _keygen(["-Y", "sign", "-f", str(key), "-n", NAMESPACE], text)
    if done.returncode:
        raise ConfigError(f"--sign {key}: {_said(done)}")
    return done.stdout


def verify(text: str, signature: Path, key: Path | None) -> str:
    """Return which key a signature is by: `ED25519 key SHA256:...`.

    Without the author's public `key` any key will do: the reader compares the fingerprint.
    Raises `InputError` if the signature is not one of this text, or not by `key`.
    """
    with tempfile.TemporaryDirectory() as directory:
        arguments = ["-Y", "check-novalidate"]
        if key is not None:
            allowed = Path(directory) / "allowed_signers"
            allowed.write_text(f"author {read_named_text(key, _MOST_BYTES).strip()}\n")
            arguments = ["-Y", "verify", "-f", str(allowed), "-I", "author"]
        copy = Path(directory) / "signature"
        try:
            copy.write_bytes(read_named(signature, _MOST_BYTES))
        except ConfigError as error:
            raise InputError(f"no signature of this file: {error}", reason="signature") from None
        done = _keygen([*arguments, "-n", NAMESPACE, "-s", str(copy)], text)
    if done.returncode:
        whose = "" if key is None else f" by {key}"
        text = f"{signature}: no signature of this file{whose}: {_said(done)}"
        raise InputError(text, reason="signature")
    return done.stdout.strip().rpartition(" with ")[2]


def _keygen(arguments: Sequence[str], text: str) -> subprocess.CompletedProcess[str]:
    program = shutil.which("ssh-keygen")
    if program is None:
        raise ConfigError("ssh-keygen is not on PATH: install openssh-client")
    try:
        return subprocess.run(
            [program, *arguments],
            input=text,
            capture_output=True,
            encoding="utf-8",
            timeout=_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise ConfigError(f"ssh-keygen did not answer within {_TIMEOUT_S:g} s") from None


def _said(done: subprocess.CompletedProcess[str]) -> str:
    lines = (done.stderr or done.stdout).strip().splitlines()
    return lines[-1] if lines else f"ssh-keygen failed (exit status {done.returncode})"
