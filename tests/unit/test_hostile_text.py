"""Hostile text at every way in and every way out; `core/test_sanitize.py` tests the cleaning."""

from __future__ import annotations

import csv
import io
import json
import logging
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import msgspec
import pytest
from tests.hostile import TEXTS, is_harmless

from joulebook import log
from joulebook.commands.trace.jobs_csv import FIELDS, read_jobs
from joulebook.errors import ConfigError, InputError
from joulebook.lab.report.formats import html, latex, markdown, runs_csv
from joulebook.lab.report.wording import nearest
from joulebook.metrics import exposition
from joulebook.metrics.page import markup
from joulebook.node.workloads.kubernetes.pod_object import PodObject, Reader
from joulebook.node.workloads.slurm import event_file, job_record
from joulebook.node.workloads.spans import files

RECORD = """JobId=7 JobName={text}
   UserId=ada(1000) GroupId=ada(1000) MCS_label=N/A
   Priority=1 Nice=0 Account=nlp QOS=normal WCKey=*
   JobState=RUNNING Reason=None Dependency=(null)
   Requeue=1 Restarts=0 BatchFlag=1 Reboot=0 ExitCode=0:0
   StartTime=1764000000 EndTime=1764003600 Deadline=N/A
   Partition=gpu AllocNode:Sid=login:1
   Comment={text}
"""


def event(text: str, _: Path) -> Iterable[str]:
    fields = {"user": text, "account": text, "comment": text, "cluster": text, "partition": text}
    raw = json.dumps({**json.loads(event_file.EXAMPLE), **fields}).encode()
    said = event_file.decode_event(raw)
    return [said.user, said.account, said.comment, said.cluster, said.partition]


def answer(text: str, _: Path) -> Iterable[str]:
    said = job_record.parse_job(RECORD.format(text=text), "7", text)
    return () if said is None else [said.name, said.comment, said.user, said.account]


def span(text: str, folder: Path) -> Iterable[str]:
    content = {**json.loads(files.EXAMPLE), "experiment": text}
    (folder / "1-2-3.json").write_text(json.dumps(content))
    fd = os.open(folder, os.O_RDONLY)
    try:
        return [files.read(fd, "1-2-3.json", os.geteuid()).experiment]
    finally:
        os.close(fd)


def pod(text: str, _: Path) -> Iterable[str]:
    meta = {"uid": "u1", "name": text, "namespace": text, "labels": {"who": text},
            "annotations": {"what": text}}  # fmt: skip
    said = Reader(("annotation:what",), user_key="label:who").info(
        msgspec.convert({"metadata": meta}, PodObject)
    )
    return [said.name, said.namespace, said.user, *said.sources.values(), *said.extra.values()]


def timetable(text: str, folder: Path) -> Iterable[str]:
    row = dict.fromkeys(FIELDS, text) | {"gpu": "0", "start_s": "0", "end_s": "1"}
    with (folder / "jobs.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, FIELDS)
        writer.writeheader()
        writer.writerow(row)
    (job,) = read_jobs(folder / "jobs.csv", ("GPU-0",))
    return [job.id, job.user, job.account, job.experiment]


@pytest.mark.parametrize("way_in", [event, answer, span, pod, timetable])
@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_what_is_kept_is_harmless_and_short(
    text: str, way_in: Callable[[str, Path], Iterable[str]], tmp_path: Path
) -> None:
    try:
        kept = list(way_in(text, tmp_path))
    except (InputError, ConfigError, UnicodeEncodeError, csv.Error):
        return  # Refused, or not a file that anybody can write.
    assert all(is_harmless(each) for each in kept)
    assert all(len(each) <= 2048 for each in kept)


WAYS_OUT: dict[str, Callable[[str], str]] = {
    "metrics": lambda text: exposition.escape(text).replace("\t", ""),  # which it may hold
    "page": markup.text,
    "html": html.escape,
    "latex": latex.escape,
    "markdown": markdown.escape,
    "csv": runs_csv.cell,
    "messages": lambda text: nearest("x", {text}),
}


@pytest.mark.parametrize("way_out", WAYS_OUT.values(), ids=WAYS_OUT)
@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_what_is_shown_is_harmless(text: str, way_out: Callable[[str], str]) -> None:
    assert is_harmless(way_out(text))


@pytest.fixture
def root() -> Iterator[logging.Logger]:
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield root
    root.handlers[:], root.level = handlers, level


@pytest.mark.parametrize("form", ["text", "json"])
@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_what_is_logged_is_one_harmless_line(text: str, form: str, root: logging.Logger) -> None:
    stream = io.StringIO()
    log.setup("info", form, stream=stream, environ={})  # type: ignore[arg-type]
    root.info("job %s", text)
    (line,) = stream.getvalue().splitlines()
    assert is_harmless(line)
