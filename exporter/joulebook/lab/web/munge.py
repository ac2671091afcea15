"""Identity by MUNGE: a credential that says which account made it, for this server alone.

The client asks for a nonce and encodes it, with the address that it asked, for the server's account
only. A credential for another server, or one that was used before, is worth nothing here: munged
itself notices a replay only within one host.
"""

from __future__ import annotations

import os
import pwd
import re
import subprocess
from collections.abc import Callable, Collection

from joulebook.errors import InputError

_PREFIX = "joulebook-lab"
_TIMEOUT_S = 10.0
MOST_CHARS = 4096
"""The longest credential that is looked at; one of ours has about 300 characters."""

_STATUS = {15: "expired", 16: "dated in the future", 17: "used already", 18: "for another account"}
"""munged's reasons by unmunge's exit status, as far as a person can do something about them."""
_UNSAID = range(8, 19)
"""Its other refusals of a credential: damaged, of another key, of another version."""

_CREDENTIAL = re.compile(r"MUNGE:[A-Za-z0-9+/=]+:", re.ASCII)


def payload(url: str, nonce: str) -> str:
    """Return what a client encodes."""
    return f"{_PREFIX}\n{url.rstrip('/')}\n{nonce}\n"


def encode(url: str, nonce: str, server_uid: int, socket: str = "") -> str:
    """Return a credential that only the server's account can decode.

    Raises `InputError` if munge gives none.
    """
    words = ["munge", "--restrict-uid", str(server_uid), *_of(socket)]
    return _run(words, payload(url, nonce)).strip()


def decoded(
    credential: str,
    urls: Collection[str],
    use_nonce: Callable[[str], bool],
    socket: str = "",
) -> str:
    """Return the user who made a credential.

    Raises `InputError` for anything that is not a fresh credential for this server: `credential`,
    `nonce`, `server`, `account`, or `munge` if munged cannot be asked.
    """
    text = credential.strip()
    if len(text) > MOST_CHARS or not _CREDENTIAL.fullmatch(text):
        raise InputError("not a MUNGE credential", reason="credential")
    words = ["unmunge", "--numeric", "--keys", "UID,UID_RESTRICTION", *_of(socket)]
    head, _, body = _run(words, text).partition("\n\n")
    told = {name.strip(): value.strip() for name, _, value in map(_pair, head.splitlines())}
    if told.get("UID_RESTRICTION") != str(os.geteuid()):
        raise InputError("the credential is not made for this server alone", reason="server")
    lines = body.split("\n")
    if lines[0] != _PREFIX or len(lines) < 3 or lines[1] not in {u.rstrip("/") for u in urls}:
        raise InputError("the credential is for another server", reason="server")
    if not use_nonce(lines[2]):
        raise InputError("the nonce is not good any more: log in again", reason="nonce")
    try:
        return pwd.getpwuid(int(told.get("UID", ""))).pw_name
    except (KeyError, OverflowError, ValueError):
        raise InputError("the credential's account is not known here", reason="account") from None


def _pair(line: str) -> tuple[str, str, str]:
    return line.partition(":")


def _of(socket: str) -> list[str]:
    return ["--socket", socket] if socket else []


def _run(words: list[str], given: str) -> str:
    try:
        done = subprocess.run(
            words, input=given, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired, UnicodeError) as error:
        raise InputError(f"{words[0]} cannot be run: {error}", reason="munge") from None
    if done.returncode in _UNSAID:
        why = _STATUS.get(done.returncode, "not valid")
        raise InputError(f"the credential is {why}", reason="credential")
    if done.returncode or not done.stdout.strip():
        raise InputError(f"{words[0]}: {done.stderr.strip()[:200] or 'no answer'}", reason="munge")
    return done.stdout
