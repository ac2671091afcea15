"""The cgroups of one pod: when it and its containers came to life, and when they ended."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from joulebook.tenants.kubernetes.tree import Level, Spot

MAX_LEFT = 256
"""A container that crashes again and again is another one each time: the last ones count."""


@dataclass(slots=True, eq=False)
class Body:
    """A pod's directories (one in each hierarchy) and those of its containers; node time."""

    uid: str
    began_ns: int | None = None
    """When its first directory was made; `None` if it was there before we looked."""
    paths: set[Path] = field(default_factory=set)
    containers: dict[str, set[Path]] = field(default_factory=dict)
    left: dict[str, int] = field(default_factory=dict)
    """When each container ended that is no more."""
    gone_ns: int | None = None

    def made(self, spot: Spot, t_ns: int, *, live: bool) -> None:
        """One more directory."""
        if not self.paths and not self.containers:
            self.began_ns = t_ns if live else None
            self.gone_ns = None
        if spot.level is Level.POD:
            self.paths.add(spot.path)
        else:
            self.containers.setdefault(spot.container, set()).add(spot.path)
            self.left.pop(spot.container, None)

    def gone(self, spot: Spot, t_ns: int) -> None:
        """One less."""
        if spot.level is Level.POD:
            self.paths.discard(spot.path)
        elif spot.container in self.containers:
            paths = self.containers[spot.container]
            paths.discard(spot.path)
            if not paths:
                del self.containers[spot.container]
                self.left[spot.container] = t_ns
                if len(self.left) > MAX_LEFT:
                    del self.left[next(iter(self.left))]
        if not self.paths and not self.containers:
            self.gone_ns = t_ns

    def left_ns(self, own: frozenset[str]) -> int | None:
        """When the last of its containers ended; `None` while one lives, or none was seen.

        `own` are the ids that the API server knows: without them nobody can tell a container
        from the sandbox, which ends a little later, and all must have ended.
        """
        ours = own & (self.containers.keys() | self.left.keys())
        if ours:
            alive = any(each in self.containers for each in ours)
            ends = [self.left[each] for each in ours if each in self.left]
        else:
            alive, ends = bool(self.containers), list(self.left.values())
        return max(ends) if ends and not alive else None

    def ended_ns(self, own: frozenset[str]) -> int | None:
        """When it ended, once all its directories are gone."""
        if self.gone_ns is None:
            return None
        left_ns = self.left_ns(own)
        return self.gone_ns if left_ns is None else min(left_ns, self.gone_ns)
