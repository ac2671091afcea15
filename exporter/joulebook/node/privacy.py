"""Mask users' names (`[privacy] users`) before anything is written or exposed."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable
from pathlib import Path

from joulebook.errors import ConfigError
from joulebook.untrusted_files import read_secret, shown_path

Mask = Callable[[str], str]

HASH_CHARACTERS = 16
SHORTEST_KEY_BYTES = 16


def mask(users: str, key_file: str) -> Mask:
    """Return how names are treated: `plain` as they are, `hmac` as a keyed hash, `none` not at all.

    The same key on every node of a site gives the same hash, so that a user's jobs still add up.
    Raises `ConfigError` if the key cannot be used.
    """
    if users == "plain":
        return lambda user: user
    if users == "none":
        return lambda user: ""
    try:
        key = read_secret(Path(key_file)).strip()
    except OSError as e:
        raise ConfigError(
            f"privacy.key_file: {shown_path(key_file)}: cannot be read: {e.strerror}; users = "
            f'"{users}" needs a file with at least {SHORTEST_KEY_BYTES} random bytes'
        ) from e
    if len(key) < SHORTEST_KEY_BYTES:
        raise ConfigError(
            f"privacy.key_file = {key_file!r}: {len(key)} bytes; expected at least "
            f"{SHORTEST_KEY_BYTES} random bytes, the same on every node"
        )

    def hashed(user: str) -> str:
        if not user:
            return ""
        return hmac.new(key, user.encode(), hashlib.sha256).hexdigest()[:HASH_CHARACTERS]

    return hashed
