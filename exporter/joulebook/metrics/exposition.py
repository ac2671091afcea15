"""What the server serves: made when somebody asks, once per view, however many ask."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from threading import Lock

from joulebook.metrics.collector import collect
from joulebook.metrics.dcgm import collect_dcgm
from joulebook.metrics.page.page import render_page
from joulebook.metrics.process import process_stats
from joulebook.metrics.render import Block, Format, Renderer, body, negotiate
from joulebook.metrics.snapshot import Snapshot

Check = Callable[[], tuple[bool, str]]
"""Whether all is well, and if not, what is wrong, in words for a person."""

DCGM = "dcgm"
"""The name in `exposition.compat` that adds the metrics of dcgm-exporter."""


class Exposition:
    """The pages of one node (`Pages` of the server). Any thread may call any method.

    `on_error` is reported of a metric that cannot be rendered, once until it can be again.
    """

    def __init__(
        self,
        view: Snapshot,
        ready: Check,
        healthy: Check,
        *,
        compat: Collection[str] = (),
        on_error: Callable[[str, Exception], None],
    ) -> None:
        self.ready = ready
        self.healthy = healthy
        self._dcgm = DCGM in compat
        self._on_error = on_error
        self._lock = Lock()
        self._make: Callable[[], Snapshot] = lambda: view
        self._made: tuple[Callable[[], Snapshot], Snapshot] | None = None
        self._renderer = Renderer(view.node, view.cluster)
        self._errors: dict[str, int] = {}
        self._failing: frozenset[str] = frozenset()
        self._made_of: Snapshot | None = None
        self._blocks: list[Block] = []
        self._bodies: dict[Format, bytes] = {}
        self._page: tuple[Snapshot, bool, str, bytes] | None = None

    def publish(self, make: Callable[[], Snapshot]) -> None:
        """Show this view from now on; `node` and `cluster` must stay the same.

        It is made when it is first asked for, by the thread that asks.
        """
        self._make = make

    def metrics(self, accept: str = "") -> tuple[bytes, str]:
        """The body of `/metrics` for an `Accept` header, and its media type.

        The same bytes object for the same view, so that the server can keep what it makes of it.
        """
        style = negotiate(accept)
        with self._lock:
            view = self._view()
            if self._made_of is not view:
                self._blocks = self._render(view)
                self._bodies = {}
                self._made_of = view
            if style not in self._bodies:
                self._bodies[style] = body(self._blocks, style)
            return self._bodies[style], style.value

    def index(self) -> bytes:
        """The page `/` for people."""
        ready, message = self.ready()
        with self._lock:
            view = self._view()
        page = self._page
        if page is None or page[0] is not view or page[1:3] != (ready, message):
            page = (view, ready, message, render_page(view, ready, message))
            self._page = page
        return page[3]

    def _view(self) -> Snapshot:
        """The newest view. The lock must be held."""
        make = self._make
        if self._made is None or self._made[0] is not make:
            self._made = (make, make())
        return self._made[1]

    def _render(self, view: Snapshot) -> list[Block]:
        collected = collect(view, process_stats(), self._errors)
        failures = dict(collected.failures)
        families = collected.families
        if self._dcgm:
            try:
                families = families + collect_dcgm(view)
            except Exception as error:
                failures[DCGM] = error
        blocks: list[Block] = []
        for family in families:
            try:
                blocks.append(self._renderer.block(family))
            except Exception as error:
                failures[family.metric.name] = error
        self._tell(failures)
        return blocks

    def _tell(self, failures: Mapping[str, Exception]) -> None:
        for family, error in failures.items():
            self._errors[family] = self._errors.get(family, 0) + 1
            if family not in self._failing:
                self._on_error(family, error)
        self._failing = frozenset(failures)
