"""Lookups that may hang, in threads: a hang affects only the user who caused it.

The environment of a process is in its own memory, which may be made to answer never; a directory
of users may be far away.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Hashable

PATIENCE_S = 1.0
"""How long an answer is waited for; most come within a millisecond."""

MOST_THREADS = 64
MOST_QUESTIONS = 1024
"""Questions of one asker that wait at a time."""

Question = Callable[[], None]


class Lookups:
    """A thread for each asker who has questions, and none for those who have not."""

    def __init__(self, failed: Callable[[], None], patience_s: float = PATIENCE_S) -> None:
        """Call `failed` while an exception of a question is handled."""
        self._failed = failed
        self._patience_s = patience_s
        self._lock = threading.Lock()
        self._waiting: dict[Hashable, deque[Question]] = {}
        self._hanging: set[Hashable] = set()

    def ask(self, asker: Hashable, question: Question, *, wait: bool = False) -> bool:
        """Run `question`; with `wait`, wait for a while and return whether it is done.

        A hanging caller is not waited for.
        """
        done = threading.Event()

        def answered() -> None:
            try:
                question()
            finally:
                done.set()

        with self._lock:
            if not self._enqueue(asker, answered):
                return False
            wait = wait and asker not in self._hanging
        if not wait:
            return False
        if done.wait(self._patience_s):
            return True
        with self._lock:
            if asker in self._waiting:
                self._hanging.add(asker)
        return done.is_set()

    def _enqueue(self, asker: Hashable, question: Question) -> bool:
        waiting = self._waiting.get(asker)
        if waiting is not None:
            if len(waiting) >= MOST_QUESTIONS:
                return False
            waiting.append(question)
            return True
        if len(self._waiting) >= MOST_THREADS:
            return False
        self._waiting[asker] = deque([question])
        thread = threading.Thread(
            target=self._answer, args=(asker,), name="process-names", daemon=True
        )
        try:
            thread.start()
        except RuntimeError:  # no thread to be had
            del self._waiting[asker]
            return False
        return True

    def _answer(self, asker: Hashable) -> None:
        while True:
            with self._lock:
                if not self._waiting[asker]:
                    del self._waiting[asker]
                    self._hanging.discard(asker)
                    return
                question = self._waiting[asker].popleft()
            try:
                question()
            except Exception:
                self._failed()
