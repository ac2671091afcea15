"""Who asks, and what they may see.

A viewer sees the jobs of its own user name and, as a coordinator, those of its accounts;
administrators see everything. What others have only appears in totals that name nobody.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import NamedTuple

import msgspec

PROXY = "proxy"
"""How somebody is known whom a proxy names."""

KUBERNETES = "kubernetes"
"""How somebody is known whose token an API server knows."""

TOKEN = "token"  # noqa: S105 - not a password
"""How a program is known that shows a token of an administrator's."""

_ELSEWHERE = frozenset({PROXY, KUBERNETES})
"""Names of theirs are not those of this machine."""

TOTALS = "totals"
"""The one word of `[lab] public`: the lab's totals are open to everybody."""


class Scope(NamedTuple):
    """The rows that a viewer may see: everything, or those of a user and of some accounts."""

    everything: bool = False
    user: str = ""
    accounts: frozenset[str] = frozenset()

    def takes(self, user: str, account: str) -> bool:
        """Return whether rows of this user and account are among them."""
        return (
            self.everything
            or (bool(self.user) and user == self.user)
            or (bool(account) and account in self.accounts)
        )

    def sql(self, person: str, account: str) -> tuple[str, list[object]]:
        """Return `takes` as a condition on two columns, and its values."""
        if self.everything:
            return "1 = 1", []
        parts, values = [], list[object]()
        if self.user:
            parts.append(f"{person} = ?")
            values.append(self.user)
        if names := sorted(self.accounts - {""}):
            parts.append(f"{account} IN ({', '.join('?' * len(names))})")
            values += names
        return (f"({' OR '.join(parts)})" if parts else "1 = 0"), values


class Viewer(msgspec.Struct, frozen=True):
    """Somebody whose identity was proved; without a name and rights, anybody.

    Attributes:
        user: The name as the scheduler knows it; empty: nobody in particular.
        how: How it was proved: `munge`, `socket`, `proxy`, `kubernetes`, `token`, `command`.
        admin: Whether everything may be seen, and bills changed.
        coordinates: Accounts of which every job may be seen.
        public: Whether the lab's totals are open to everybody.
        proved: Those of `coordinates` that came with the proof, not from the site's lists.

    """

    user: str = ""
    how: str = ""
    admin: bool = False
    coordinates: frozenset[str] = frozenset()
    public: bool = False
    proved: frozenset[str] = frozenset()

    @property
    def known(self) -> bool:
        """Return whether this is somebody."""
        return bool(self.user) or self.admin

    @property
    def scope(self) -> Scope:
        """Return the rows that may be seen."""
        return Scope(self.admin, self.user, self.coordinates)

    @property
    def sees_totals(self) -> bool:
        """Return whether the lab's totals may be seen."""
        return self.admin or self.public


class Directory(msgspec.Struct, frozen=True):
    """What the site says of people, and what is public.

    Attributes:
        admins: Administrators, however they prove who they are.
        local: Accounts of this machine that are administrators too (root, the server's own); a
            proxy or a cluster may have somebody else of that name.
        coordinators: Users who see all jobs of an account, by account.
        public: Whether the lab's totals are open to everybody.
        scheduler: Gives the coordinators that the scheduler knows, in the same form.

    """

    admins: frozenset[str] = frozenset()
    local: frozenset[str] = frozenset()
    coordinators: Mapping[str, Collection[str]] = {}
    public: bool = False
    scheduler: Callable[[], Mapping[str, Collection[str]]] = dict

    def viewer(self, user: str, how: str, further: Collection[str] = ()) -> Viewer:
        """Return a proved user with its rights; `further` accounts are coordinated, too."""
        known = (*self.coordinators.items(), *self.scheduler().items())
        mine = {account for account, users in known if user in users}
        is_admin = user in self.admins or (how not in _ELSEWHERE and user in self.local)
        proved = frozenset(further)
        return Viewer(user, how, is_admin, proved.union(mine), self.public, proved)

    @property
    def anybody(self) -> Viewer:
        """Return the viewer of whom nothing is known."""
        return Viewer(public=self.public)
