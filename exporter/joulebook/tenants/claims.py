"""What is common to the claims of all sources."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from joulebook.core.tenancy import Claim


def joined(claims: Iterable[Claim]) -> tuple[Claim, ...]:
    """Claims of one key as one: the instances of a card that one job was given together."""
    by_key: dict[object, Claim] = {}
    for claim in claims:
        before = by_key.get(claim.key)
        if before is not None and before.of == claim.of:
            parts = min(before.parts + claim.parts, claim.of)
            by_key[claim.key] = msgspec.structs.replace(claim, parts=parts)
        else:
            by_key[claim.key] = claim
    return tuple(by_key.values())
