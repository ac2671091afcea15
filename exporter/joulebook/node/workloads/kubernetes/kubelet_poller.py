"""The thread that polls the kubelet every few seconds, and soon after something happened."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from joulebook.backoff import LastingThread
from joulebook.clock import Clock
from joulebook.log import LogOnce
from joulebook.node.workloads.kubernetes.device_ids import KubeletDevice, KubeletError, ListedPod

if TYPE_CHECKING:
    from joulebook.node.workloads.kubernetes.kubelet import Kubelet

log = logging.getLogger(__name__)

LOOKS_S = (0.0, 0.1, 0.3, 0.7, 1.6)
"""The delays of polls after something happened: the kubelet reports an end with some delay."""

PAUSE_S = 0.05
"""The least time between two polls."""

OFFER_S = 60.0
"""How often plugins' devices are queried; also when a replica shows up that was not offered."""


class KubeletPoller(LastingThread):
    """Calls `heard` with each answer and `silent` without one; `offered` with plugins' devices."""

    def __init__(
        self,
        socket: Path,
        clock: Clock,
        interval_s: float,
        *,
        heard: Callable[[Sequence[ListedPod], int], None],
        silent: Callable[[KubeletError, int], None],
        offered: Callable[[Iterable[KubeletDevice] | None], None],
        faulty: Callable[[], None],
        restless: Callable[[], bool],
    ) -> None:
        """`restless` returns whether to poll again soon.

        `faulty` is called while an unexpected exception is handled.
        """
        super().__init__("kubelet", self._serve)
        self._socket = socket
        self._clock = clock
        self._interval_s = interval_s
        self._heard, self._silent, self._offered = heard, silent, offered
        self._faulty, self._restless = faulty, restless
        self._wake = threading.Condition()
        self._due: list[float] = [0.0]
        self._rested = 0.0
        self._offer_due = 0.0
        self._stopping = False
        self._once = LogOnce(log)

    def soon(self) -> None:
        """Poll at once, and again a few times, since something happened."""
        now = time.monotonic()
        with self._wake:
            self._due = sorted({*self._due[:1], *(now + each for each in LOOKS_S)})
            self._wake.notify()

    def ask_offer(self) -> None:
        """Query plugins' devices at once."""
        self._offer_due = 0.0
        self.soon()

    def stop(self, patience_s: float = 3.0) -> None:
        """End the thread."""
        with self._wake:
            self._stopping = True
            self._wake.notify()
        if self.is_alive():
            self.join(patience_s)

    def _serve(self) -> None:
        kubelet: Kubelet | None = None
        while self._wait():
            try:
                kubelet = kubelet or self._connected()
                self._poll(kubelet)
            except Exception:
                self._faulty()
            self._rested = time.monotonic() + PAUSE_S
        if kubelet is not None:
            kubelet.close()

    def _connected(self) -> Kubelet:
        # Ten megabytes that only nodes with a kubelet should pay.
        from joulebook.node.workloads.kubernetes.kubelet import Kubelet  # noqa: PLC0415

        return Kubelet(self._socket)

    def _poll(self, kubelet: Kubelet) -> None:
        t_ns = self._clock.now_ns()
        try:
            pods = kubelet.pods()
            if time.monotonic() >= self._offer_due:
                self._offer_due = time.monotonic() + OFFER_S
                self._offered(self._offer(kubelet))
        except KubeletError as error:
            said = ("kubelet: %s. %s", error, error.remedy)
            self._once.failed("kubelet", *said, reason=error.reason)
            self._offer_due = 0.0
            self._silent(error, t_ns)
            return
        self._once.recovered("kubelet", "kubelet: responds again")
        self._heard(pods, t_ns)

    def _offer(self, kubelet: Kubelet) -> Iterable[KubeletDevice] | None:
        try:
            return kubelet.advertised()
        except KubeletError as error:
            if error.reason in {"unimplemented", "refused"}:
                return None  # An older kubelet, or one without that feature.
            raise

    def _wait(self) -> bool:
        """Wait until a poll is due; `False` when stopped."""
        with self._wake:
            while not self._stopping:
                now = time.monotonic()
                left_s = max(self._due[0], self._rested) - now
                if left_s <= 0:
                    rest = [due for due in self._due if due > now + PAUSE_S]
                    pause_s = min(0.5, self._interval_s) if self._restless() else self._interval_s
                    self._due = rest or [now + pause_s]
                    return True
                self._wake.wait(left_s)
        return False
