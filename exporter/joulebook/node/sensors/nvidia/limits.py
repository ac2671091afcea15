"""What the driver can say at most: figures beyond are refused (`api`, `processes`)."""

from __future__ import annotations

MAX_DEVICES = 256
"""No machine of 2026 has more GPUs than some tens."""

MAX_ENERGY_MJ = 1 << 53
"""1 kW for 285 years; in microjoules it fits into the 63 bits of the ledger."""

MAX_UPTIME_S = 1 << 31
MAX_THROTTLE_NS = 1 << 62
MAX_MEMORY_BYTES = 1 << 50
MAX_POWER_MW = 10_000_000
"""No GPU of 2026 draws 10 kW, whatever limit it tells."""

DEFAULT_POWER_MW = 3_000_000
PLAUSIBLE_FACTOR = 2
"""Transients may exceed the highest power limit that can be set; by this factor they do not."""

MAX_TEMPERATURE_C = 255
MAX_CLOCK_MHZ = 100_000
