"""Which card a device of AMD or Intel is, from what their plugins and DRA drivers call it.

    0000:4d:00.0                 a card by its PCI address        (AMD's device plugin)
    card1-0                      card 1, replica 0                (Intel's device plugin)
    gpu.amd.com/pool/gpu-1-129   card 1, renderD129               (AMD's DRA driver)
    gpu.intel.com/pool/0000-4d-00-0-0x0bda    by PCI address      (Intel's DRA driver)

A ResourceSlice that tells the PCI address counts before a name.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from joulebook.core.devices import DeviceStatus

_PCI = re.compile(r"[0-9a-f]{4}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]", re.IGNORECASE)
_REPLICA = re.compile(r"(?P<card>card\d+)-\d+")
_CARD = re.compile(r"card\d+")
_AMD_DRA = re.compile(r"gpu-(?P<card>\d+)-(?P<render>\d+)")
_INTEL_DRA = re.compile(
    r"(?P<domain>[0-9a-f]{4})-(?P<bus>[0-9a-f]{2})-(?P<slot>[0-9a-f]{2})-(?P<function>[0-7])"
    r"(?:-0x[0-9a-f]{4})?"
)


def shared_card(device_id: str) -> str:
    """The card of which Intel's plugin calls a replica `device_id`; empty if it is no such name."""
    found = _REPLICA.fullmatch(device_id)
    return found["card"] if found is not None else ""


def is_named(name: str) -> bool:
    """Whether a name is one that plugins of AMD or Intel give."""
    return bool(_PCI.fullmatch(name) or _CARD.fullmatch(name))


def find_card(name: str, cards: Sequence[DeviceStatus]) -> DeviceStatus | None:
    """The card that a plugin means; `None` if it is not metered here."""
    if _CARD.fullmatch(name):
        return next((card for card in cards if f"dri/{name}" in card.files), None)
    return _by_pci(name, cards)


def find_dra(device_id: str, pci: str, cards: Sequence[DeviceStatus]) -> DeviceStatus | None:
    """The card of a DRA device (`driver/pool/name`), whose slice may tell its PCI address."""
    name = device_id.rpartition("/")[2]
    if pci:
        return _by_pci(pci, cards)
    if found := _AMD_DRA.fullmatch(name):
        files = {f"dri/card{found['card']}", f"dri/renderD{found['render']}"}
        return next((card for card in cards if files <= set(card.files)), None)
    if found := _INTEL_DRA.fullmatch(name):
        address = "{domain}:{bus}:{slot}.{function}".format(**found.groupdict())
        return _by_pci(address, cards)
    return None


def _by_pci(address: str, cards: Sequence[DeviceStatus]) -> DeviceStatus | None:
    wanted = address.lower()
    return next((card for card in cards if card.files and card.pci.lower() == wanted), None)
