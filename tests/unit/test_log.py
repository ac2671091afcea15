"""Logging: formats, hostile text, and a failure that repeats."""

from __future__ import annotations

import io
import json
import logging
import os
from collections.abc import Iterator

import pytest

from joulebook import log
from joulebook.config.load import redact


@pytest.fixture(autouse=True)
def root() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    root.handlers[:], root.level = handlers, level


def said(form: str = "text", level: str = "info") -> io.StringIO:
    stream = io.StringIO()
    log.setup(level, form, stream=stream, environ={})  # type: ignore[arg-type]
    return stream


def test_text() -> None:
    stream = said()
    logging.getLogger("joulebook.x").warning("%d cards", 2)
    logging.getLogger("joulebook.x").debug("not this")
    (line,) = stream.getvalue().splitlines()
    time, rest = line.split(" ", 1)
    assert time.endswith("Z")
    assert len(time) == len("2026-01-01T00:00:00.000Z")
    assert rest == "WARNING joulebook.x: 2 cards"


def test_nothing_logged_can_look_like_a_record() -> None:
    stream = said()
    logging.getLogger("x").info("job %s", "a\nERROR forged\x1b[31m\u2028\udcff\x00é")
    (line,) = stream.getvalue().splitlines()
    assert line.endswith(r"x: job a\nERROR forged\x1b[31m\u2028\udcff\x00é")


def test_passwords_in_urls_are_left_out() -> None:
    for form in ("text", "json"):
        stream = said(form)
        logging.getLogger("x").info("no answer from %s", "postgresql://me:hunter2@db/x")
        assert "hunter2" not in stream.getvalue()
        assert "postgresql://***@db/x" in stream.getvalue()


def test_exceptions_are_indented() -> None:
    stream = said()
    try:
        raise ValueError("a\nb")
    except ValueError:
        logging.getLogger("x").exception("oh")
    first, *rest = stream.getvalue().splitlines()
    assert first.endswith("x: oh")
    assert rest
    assert all(line.startswith("  ") for line in rest)


def test_json() -> None:
    stream = said("json")
    try:
        raise ValueError("bad\udcff")
    except ValueError:
        logging.getLogger("x").exception("two\nlines")
    (line,) = stream.getvalue().splitlines()
    record = json.loads(line)
    assert (record["level"], record["logger"], record["message"]) == ("error", "x", "two\nlines")
    assert "ValueError" in record["exception"]


def test_lines_for_the_journal_carry_their_priority() -> None:
    read, write = os.pipe()
    with os.fdopen(read) as reader, os.fdopen(write, "w") as writer:
        status = os.fstat(write)
        environ = {"JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino}"}
        log.setup(stream=writer, environ=environ)
        try:
            raise ValueError("x")
        except ValueError:
            logging.getLogger("x").exception("oh")
        writer.close()
        lines = reader.read().splitlines()
    assert lines[0] == "<3>x: oh"
    assert all(line.startswith("<3>") for line in lines)


def test_an_inherited_journal_variable_is_not_believed() -> None:
    read, write = os.pipe()
    with os.fdopen(read) as reader, os.fdopen(write, "w") as writer:
        log.setup(stream=writer, environ={"JOURNAL_STREAM": "1:2"})
        logging.getLogger("x").info("hello")
        writer.close()
        assert "INFO x: hello" in reader.read()


def test_set_up_again_replaces() -> None:
    first, second = said(), said()
    logging.getLogger("x").info("hello")
    assert first.getvalue() == ""
    assert second.getvalue().count("hello") == 1


def test_a_repeated_failure_is_said_once_then_when_it_is_over(
    caplog: pytest.LogCaptureFixture,
) -> None:
    once = log.LogOnce(logging.getLogger("joulebook.test_once"))
    caplog.set_level(logging.INFO)
    assert [once.failed("nvml", "NVML: %s", "lost") for _ in range(3)] == [1, 2, 3]
    assert once.failed("ledger", "full", level=logging.ERROR) == 1
    assert once.failing() == ["nvml", "ledger"]
    assert once.recovered("nvml", "NVML is back") == 3
    assert once.recovered("nvml", "NVML is back") == 0
    assert once.failed("nvml", "NVML: %s", "lost") == 1
    assert once.recovered("nvml", "%s is back", "NVML") == 1
    assert [(r.levelname, r.getMessage()) for r in caplog.records] == [
        ("WARNING", "NVML: lost"),
        ("ERROR", "full"),
        ("INFO", "NVML is back (after 3 failures)"),
        ("WARNING", "NVML: lost"),
        ("INFO", "NVML is back (after 1 failure)"),
    ]


def test_each_reason_is_said_once_and_so_many_at_most(caplog: pytest.LogCaptureFixture) -> None:
    once = log.LogOnce(logging.getLogger("joulebook.test_reasons"))
    for why in ("lost", "busy", "lost", "busy"):
        once.failed("nvml", "NVML: %s", why, reason=why)
    assert [r.getMessage() for r in caplog.records] == ["NVML: lost", "NVML: busy"]
    for n in range(100):
        once.failed("nvml", "NVML: %s", n, reason=str(n))
    assert len(caplog.records) == log.MAX_REASONS
    assert caplog.records[-1].getMessage().endswith("further ones of this kind are only counted")
    assert once.recovered("nvml", "NVML is back") == 104
    assert once.failed("nvml", "NVML: lost", reason="lost") == 1
    assert caplog.records[-1].getMessage() == "NVML: lost"


def test_repeats_are_said_at_debug(caplog: pytest.LogCaptureFixture) -> None:
    once = log.LogOnce(logging.getLogger("joulebook.test_debug"))
    caplog.set_level(logging.DEBUG)
    for _ in range(2):
        once.failed("k", "no %s", "luck")
    assert [r.getMessage() for r in caplog.records] == ["no luck", "again (2): no luck"]


def test_failures_told_apart_are_bounded() -> None:
    logger = logging.getLogger("joulebook.test_bound")
    logger.setLevel(logging.CRITICAL)
    once = log.LogOnce(logger)
    for n in range(5000):
        once.failed(f"key{n}", "x")
    assert len(once.failing()) <= log._MAX_FAILURES
    assert once.failed("key4999", "x") == 2


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql://ada:pw@db/lab", "postgresql://***@db/lab"),
        ("postgresql://db/lab?user=ada&password=pw", "postgresql://db/lab?user=ada&password=***"),
        ("postgresql:///lab?sslpassword=pw&host=db", "postgresql:///lab?sslpassword=***&host=db"),
        ("postgresql://ada:p@ss/w@db/lab", "postgresql://***@db/lab"),
        ("postgresql://db/lab?pass%77ord=pw", "postgresql://db/lab?pass%77ord=***"),
        ("host=db user=ada password='p w' dbname=lab", "host=db user=ada password=*** dbname=lab"),
        ("https://api/v1?api_key=pw&x=1", "https://api/v1?api_key=***&x=1"),
        (
            "https://api/v1?x=1;access_token=pw#token=pw",
            "https://api/v1?x=1;access_token=***#token=***",
        ),
        ("http://db/lab and ada@lab", "http://db/lab and ada@lab"),
        ("token_file=/etc/joulebook/token key=3", "token_file=/etc/joulebook/token key=3"),
        ("://" * 20_000 + "?key=" * 20_000, "://" * 20_000 + "?key=***"),
        ("https://flow/run?sp=x&sig=pw", "https://flow/run?sp=x&sig=***"),
        (
            "['https://hooks.slack.com/services/T0/B0/pw']",
            "['https://hooks.slack.com/services/***']",
        ),
        ("https://discord.com/api/webhooks/1/pw: 404", "https://discord.com/api/webhooks/*** 404"),
        ("https://api/v2/services", "https://api/v2/services"),
        ("https://feed/api?Token=pw is down", "https://feed/api?Token=*** is down"),
        ("https://feed/api?zone=DE", "https://feed/api?zone=DE"),
    ],
)
def test_no_secret_of_a_url_is_shown(url: str, shown: str) -> None:
    assert redact(url) == shown
