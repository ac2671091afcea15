"""What `[privacy] users` leaves of a name."""

from __future__ import annotations

import hashlib
import hmac
from pathlib import Path

import pytest

from joulebook.errors import ConfigError
from joulebook.node.workload_sources import mask


@pytest.fixture
def key(tmp_path: Path) -> Path:
    file = tmp_path / "key"
    file.write_text("0123456789abcdef0123456789abcdef\n")
    return file


def test_plain_is_the_name_and_none_is_nothing(key: Path) -> None:
    assert mask("plain", "")("ada") == "ada"
    assert mask("none", "")("ada") == ""


def test_a_pseudonym_is_the_keyed_hash_the_same_on_every_node(key: Path, tmp_path: Path) -> None:
    digest = hmac.new(b"0123456789abcdef0123456789abcdef", b"ada", hashlib.sha256).hexdigest()
    assert mask("hmac", str(key))("ada") == digest[:16]
    other = tmp_path / "node-2"
    other.write_bytes(key.read_bytes().strip())  # without the newline
    assert mask("hmac", str(other))("ada") == digest[:16]
    assert mask("hmac", str(key))("bob") != digest[:16]
    assert mask("hmac", str(key))("") == "", "nobody has no pseudonym"


def test_a_key_that_anybody_could_try_is_refused(tmp_path: Path) -> None:
    short = tmp_path / "short"
    short.write_text("secret\n")
    with pytest.raises(ConfigError, match=r"privacy\.key_file.*6 bytes; expected at least 16"):
        mask("hmac", str(short))
    with pytest.raises(ConfigError, match=r"privacy\.key_file.*cannot be read"):
        mask("hmac", str(tmp_path / "none"))
