from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from joulebook.errors import InputError
from joulebook.node.workloads.slurm.event_file import (
    EXAMPLE,
    MAX_EVENT_BYTES,
    MAX_LABEL_FILE_BYTES,
    decode_event,
    event_stem,
    read_event,
    read_labels,
)
from joulebook.untrusted_files import open_directory, trusted_owners

GOOD: dict[str, Any] = {
    "v": 1,
    "scheduler": "slurm",
    "job_id": "101",
    "restart_count": 0,
    "gpus": ["0", "GPU-1b2c"],
    "user": "ada",
    "uid": 1000,
    "account": "nlp",
    "partition": "a100",
    "comment": "experiment=bert",
    "start_ns": 1_700_000_000_000_000_000,
}


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    path = tmp_path / "jobs"
    path.mkdir(mode=0o755)
    return path


def put(directory: Path, content: dict[str, Any] | bytes, name: str = "101.0.json") -> Path:
    path = directory / name
    path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    return path


def reason(directory: Path, name: str = "101.0.json") -> str:
    fd = open_directory(directory, trusted_owners())
    try:
        with pytest.raises(InputError) as caught:
            read_event(fd, name, trusted_owners())
    finally:
        os.close(fd)
    return caught.value.reason


def test_a_good_file_is_read(directory: Path) -> None:
    path = put(directory, GOOD)
    fd = open_directory(directory, trusted_owners())
    event, changed_ns = read_event(fd, "101.0.json", trusted_owners())
    os.close(fd)
    assert (event.job_id, event.user, event.uid, event.gpus) == (
        "101",
        "ada",
        1000,
        ("0", "GPU-1b2c"),
    )
    assert event.end_ns is None
    assert changed_ns == path.stat().st_ctime_ns


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"job_id": "101; rm"}, "bad_job_id"),
        ({"job_id": 101}, "bad_job_id"),
        ({"job_id": "0"}, "bad_job_id"),
        ({"restart_count": -1}, "bad_field"),
        ({"gpus": ["0"] * 65}, "bad_field"),
        ({"gpus": ["../x"]}, "bad_field"),
        ({"uid": -1}, "bad_field"),
        ({"uid": 2**70}, "bad_field"),
        ({"v": 2}, "bad_field"),
        ({"scheduler": "lsf"}, "bad_field"),
        ({"start_ns": 1.5}, "bad_field"),
        ({"gpu_ids": "pci"}, "bad_field"),
        ({"job_id": "102"}, "bad_name"),
        ({"restart_count": 1}, "bad_name"),
    ],
)
def test_content_that_is_not_one_is_refused(
    directory: Path, change: dict[str, Any], why: str
) -> None:
    put(directory, {**GOOD, **change})
    assert reason(directory) == why


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"gpus": ["0", 1]}, ["101.0.json: gpus[1] = 1: ", "got `int`", '"gpus": ["0", "1"]']),
        ({"user": 7}, ["101.0.json: user = 7: ", '"user": "a text"']),
        ({"job_id": "x" * 99}, [f'job_id = "{"x" * 39}: ', '"job_id": "101"']),
        ({"comment": {"a": "\n"}}, ['comment = {"a":"\\n"}: ']),
        ({"start_ns": None}, ["start_ns = null: ", "1764000000000000000"]),
    ],
)
def test_a_refusal_names_file_key_value_and_what_would_be_right(
    change: dict[str, Any], said: list[str]
) -> None:
    with pytest.raises(InputError) as caught:
        decode_event(json.dumps({**GOOD, **change}).encode(), "101.0.json")
    assert all(each in str(caught.value) for each in said), str(caught.value)
    for raw, words in (
        (b"[1]", ["101.0.json: ", '"v": 1']),
        (b'{"v":1,"scheduler":"slurm"}', ["required field `job_id`", '"job_id": "101"']),
        (b'{"v":1', ["101.0.json: ", "one JSON object"]),
    ):
        with pytest.raises(InputError) as caught:
            decode_event(raw, "101.0.json")
        assert all(each in str(caught.value) for each in words), str(caught.value)


def test_the_examples_of_refusals_are_right() -> None:
    assert decode_event(EXAMPLE.encode()).gpus == ("0", "1")


def test_a_field_that_must_be_there(directory: Path) -> None:
    put(directory, {k: v for k, v in GOOD.items() if k != "start_ns"})
    assert reason(directory) == "bad_field"


@pytest.mark.parametrize(
    "raw", [b"", b"{", json.dumps(GOOD).encode()[:-9], b'{"v":1}x', b'{"user":"\xff"}', b"\0" * 99]
)
def test_half_written_and_no_json(directory: Path, raw: bytes) -> None:
    put(directory, raw)
    assert reason(directory) in {"not_json", "bad_field"}


def test_too_large(directory: Path) -> None:
    put(directory, {**GOOD, "comment": "x" * MAX_EVENT_BYTES})
    assert reason(directory) == "too_large"


def test_links_fifos_and_directories(directory: Path) -> None:
    real = put(directory, GOOD, "real")
    (directory / "101.0.json").symlink_to(real)
    assert reason(directory) == "symlink"
    os.mkfifo(directory / "102.0.json")
    assert reason(directory, "102.0.json") == "not_regular"
    (directory / "103.0.json").mkdir()
    assert reason(directory, "103.0.json") == "not_regular"


def test_foreign_owners_and_open_modes(directory: Path) -> None:
    path = put(directory, GOOD)
    path.chmod(0o664)
    assert reason(directory) == "file_too_open"
    path.chmod(0o644)
    os.chown(path, 12345, 12345)
    assert reason(directory) == "foreign_owner"


def test_the_directory_itself(directory: Path, tmp_path: Path) -> None:
    for mode in (0o775, 0o757, 0o1777):
        directory.chmod(mode)
        with pytest.raises(InputError) as caught:
            open_directory(directory, trusted_owners())
        assert caught.value.reason == "directory_too_open"
    directory.chmod(0o755)
    (tmp_path / "link").symlink_to(directory)
    with pytest.raises(InputError) as caught:
        open_directory(tmp_path / "link", trusted_owners())
    assert caught.value.reason == "symlink"
    os.chown(directory, 12345, 12345)
    with pytest.raises(InputError) as caught:
        open_directory(directory, trusted_owners())
    assert caught.value.reason == "foreign_owner"
    with pytest.raises(FileNotFoundError):
        open_directory(tmp_path / "none", trusted_owners())


def test_texts_are_cleaned() -> None:
    event = decode_event(
        json.dumps({**GOOD, "user": "a\nd\u0000a", "account": "x" * 9999, "comment": 'q"\\\u202e'})
        .encode()
    )  # fmt: skip
    assert (event.user, len(event.account), event.comment) == ("a d a", 128, 'q"\\')


@given(st.binary(max_size=300))
def test_no_bytes_are_a_fault(raw: bytes) -> None:
    with pytest.raises(InputError):
        decode_event(raw)


@given(st.dictionaries(st.sampled_from([*GOOD, "end_ns"]), st.none() | st.integers() | st.text()))
def test_no_json_is_a_fault(change: dict[str, Any]) -> None:
    try:
        event = decode_event(json.dumps({**GOOD, **change}).encode())
    except InputError as error:
        assert error.reason in {"bad_job_id", "bad_field", "not_json"}
    else:
        assert event.job_id.isdecimal()


@pytest.mark.parametrize(
    ("name", "stem"),
    [
        ("101.0.json", ("101.0", False)),
        ("101.2.end", ("101.2", True)),
        ("101.0.n1.json", ("101.0.n1", False)),
        (".101.0.tmp", None),
        ("101.json", None),
        ("a.0.json", None),
        ("101.0.../x.json", None),
    ],
)
def test_names_of_event_files(name: str, stem: tuple[str, bool] | None) -> None:
    assert event_stem(name) == stem


def test_the_name_of_another_node_must_be_in_the_file(directory: Path) -> None:
    put(directory, {**GOOD, "node": "n2"}, "101.0.n2.json")
    put(directory, {**GOOD, "node": "n2"}, "101.0.n3.json")
    put(directory, GOOD, "101.0.n4.json")
    fd = open_directory(directory, trusted_owners())
    assert read_event(fd, "101.0.n2.json", trusted_owners())[0].node == "n2"
    os.close(fd)
    assert reason(directory, "101.0.n3.json") == "bad_name"
    assert reason(directory, "101.0.n4.json") == "bad_name"


def test_labels_count_only_from_the_job_owner_and_by_name(tmp_path: Path) -> None:
    labels = tmp_path / "labels"
    assert read_labels(labels, "101", 12345) == {}
    labels.mkdir()
    labels.chmod(0o1777)
    path = labels / "101.12345.json"
    assert read_labels(labels, "101", 12345) == {}
    path.write_text('{"SLURM_JOB_NAME":"a\\nb","WANDB_API_KEY":"secret","WANDB_PROJECT":"p"}')
    with pytest.raises(InputError) as caught:
        read_labels(labels, "101", 12345)
    assert caught.value.reason == "foreign_owner"
    os.chown(path, 12345, 12345)
    assert read_labels(labels, "101", 12345) == {"SLURM_JOB_NAME": "a b", "WANDB_PROJECT": "p"}

    for content, why in (
        ("[1]", "bad_field"),
        ('{"SLURM_JOB_NAME":1}', "bad_field"),
        ("x" * (MAX_LABEL_FILE_BYTES + 1), "too_large"),
    ):
        path.write_text(content)
        with pytest.raises(InputError) as caught:
            read_labels(labels, "101", 12345)
        assert caught.value.reason == why
    path.unlink()
    path.symlink_to("/etc/passwd")
    with pytest.raises(InputError) as caught:
        read_labels(labels, "101", 12345)
    assert caught.value.reason == "symlink"
