"""What the kubelet says of its pods and their devices, as values."""

from __future__ import annotations

from typing import NamedTuple

from joulebook.errors import JoulebookError


class KubeletDevice(NamedTuple):
    """One device under the name that the kubelet knows it by.

    `resource` is that of a device plugin (`nvidia.com/gpu`) and `id` what the plugin calls the
    device; a device of a DRA claim has no resource, and `id` is `driver/pool/name`.
    """

    resource: str
    id: str

    @property
    def is_dra(self) -> bool:
        """Whether it was given by a claim and not by a device plugin."""
        return not self.resource


class ListedPod(NamedTuple):
    """A pod that the kubelet has admitted, and all devices of its containers, each once."""

    namespace: str
    name: str
    devices: tuple[KubeletDevice, ...] = ()


class KubeletError(JoulebookError):
    """No answer. `reason` is a short stable word; `remedy` says what a person can do."""

    def __init__(self, message: str, *, reason: str, remedy: str = "") -> None:
        super().__init__(message)
        self.reason = reason
        self.remedy = remedy
