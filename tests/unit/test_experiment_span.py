"""`joulebook.experiment`, however it is used: what is marked is what runs, to its end."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest

import joulebook

Files = Callable[[], list[bool]]


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Files:
    """Of each span, in the order in which they were entered, whether it is in force."""
    monkeypatch.setenv("JOULEBOOK_MARKS_DIR", str(tmp_path))

    def read() -> list[bool]:
        spans = [json.loads(path.read_text()) for path in tmp_path.glob("*.json")]
        assert {span["experiment"] for span in spans} <= {"bert"}
        spans.sort(key=lambda span: span["entered_boottime_ns"])
        return ["exited_boottime_ns" not in span for span in spans]

    return read


def test_a_block_is_entered_and_left_again_and_again(files: Files) -> None:
    block = joulebook.experiment("bert")
    with block as run, block as inner:
        assert run.id != inner.id != ""
        assert files() == [True, True]
    with block:
        assert files() == [False, False, True]
    assert files() == [False, False, False]


def test_a_function(files: Files) -> None:
    @joulebook.experiment("bert")
    def train(steps: int, *, rate: float = 0.1) -> str:
        """Train."""
        return f"{steps} {rate} {files()}"

    assert train(3, rate=2) == "3 2 [True]"
    assert train(4) == "4 0.1 [False, True]"
    assert (train.__name__, train.__doc__, files()) == ("train", "Train.", [False, False])


def test_a_function_that_fails(files: Files) -> None:
    @joulebook.experiment("bert")
    def train() -> None:
        raise KeyError("loss")

    with pytest.raises(KeyError):
        train()
    assert files() == [False]


def test_a_coroutine_until_it_is_done(files: Files) -> None:
    @joulebook.experiment("bert")
    async def train(steps: int) -> int:
        await asyncio.sleep(0)
        assert files() == [True]
        return steps

    assert asyncio.iscoroutinefunction(train)
    assert asyncio.run(train(3)) == 3
    assert files() == [False]

    async def cut() -> None:
        task = asyncio.create_task(train(4))
        await asyncio.sleep(0)
        assert files() == [False, True]
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert files() == [False, False]

    asyncio.run(cut())


def test_a_generator_from_its_first_step_to_its_end(files: Files) -> None:
    @joulebook.experiment("bert")
    def batches() -> Iterator[int]:
        got = yield 1
        assert got == "more"
        try:
            yield 2
        except ValueError:
            yield 3
        return "done"  # type: ignore[return-value]

    running: Any = batches()
    assert files() == []
    assert next(running) == 1
    assert files() == [True]
    assert (running.send("more"), running.throw(ValueError())) == (2, 3)
    with pytest.raises(StopIteration, match="done"):
        next(running)
    assert files() == [False]
    left: Any = batches()
    next(left)
    assert files() == [False, True]
    left.close()
    assert files() == [False, False]


def test_an_asynchronous_generator(files: Files) -> None:
    @joulebook.experiment("bert")
    async def batches() -> AsyncIterator[int]:
        got = yield 1
        assert got == "more"
        try:
            yield 2
        except ValueError:
            yield 3

    async def run() -> None:
        running: Any = batches()
        assert await anext(running) == 1
        assert files() == [True]
        assert await running.asend("more") == 2
        assert await running.athrow(ValueError()) == 3
        assert [each async for each in running] == []
        assert files() == [False]
        left: Any = batches()
        assert await anext(left) == 1
        await left.aclose()
        assert files() == [False, False]

    asyncio.run(run())


def test_a_function_that_only_makes_what_runs(files: Files) -> None:
    """As below another decorator: what is to run is marked, when it runs."""

    async def train() -> list[bool]:
        return files()

    @joulebook.experiment("bert")
    def make() -> Coroutine[Any, Any, list[bool]]:
        return train()

    @joulebook.experiment("bert")
    def steps() -> Iterator[list[bool]]:
        return iter(files() for _ in range(2))

    assert asyncio.run(make()) == [False, True]
    assert list(steps()) == [[False, False, False, True]] * 2
    assert files() == [False] * 4
