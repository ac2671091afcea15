"""The figures that a block of code offers: looked up when they are asked for, and never an error.

Loaded into users' programs with every block, so it imports next to nothing.
"""

from __future__ import annotations

from joulebook.warn_once import say_once

TYPE_CHECKING = False  # `typing` itself is not loaded into other people's programs
if TYPE_CHECKING:
    from joulebook.block_figures import BlockFigures
    from joulebook.run_figures import RunFigures


class SpanFigures:
    """Energy, cost and CO2e of a block; unknown ones are `None` or empty.

    Attributes:
        id: The name of its workload; empty if there is none.

    """

    __slots__ = ("_block", "_estimates", "_why", "id")

    def __init__(self) -> None:
        self.id = ""
        self._block: BlockFigures | None = None
        self._estimates, self._why = False, "it is not measured"

    @property
    def booked(self) -> RunFigures | None:
        """Return the figures in whole units, which can be added to those of other ranks."""
        try:
            if self._block is not None:
                return self._block.now()
        except Exception as error:
            self._why = f"{error!r}"
        say_once(f"no figures of this block: {self._why}")
        return None

    def figures(self) -> dict[str, float]:
        """Return all figures as plain numbers by name; empty if there are none."""
        return {} if (found := self.booked) is None else found.as_dict()

    @property
    def energy_kwh(self) -> float | None:
        """Return the energy in kWh, that of idle GPUs included."""
        return None if (found := self.booked) is None else found.energy_kwh

    @property
    def idle_kwh(self) -> float | None:
        """Return the part of it for GPUs that were held and not used."""
        return None if (found := self.booked) is None else found.idle_kwh

    @property
    def cost(self) -> dict[str, float]:
        """Return the cost by currency; empty if no price is known."""
        return {} if (found := self.booked) is None else found.cost

    @property
    def co2e_g(self) -> float | None:
        """Return the CO2e in grams."""
        return None if (found := self.booked) is None else found.co2e_g

    @property
    def known(self) -> str:
        """Return how the energy is known, in words."""
        return "nothing was measured" if (found := self.booked) is None else found.known

    def measure(self, wait_s: float, *, estimate: bool) -> None:
        """Keep figures of it, from now on. Raises nothing."""
        self._estimates = estimate
        try:
            from joulebook.block_figures import BlockFigures  # noqa: PLC0415 - only blocks pay

            self._block = BlockFigures(self.id, wait_s, estimate=estimate)
            self._block.begin()
        except Exception as error:
            # Said to who asks: the module alone, as a package of the system has it, has no msgspec.
            self._block, self._why = None, f"{error!r}"

    def measured(self) -> None:
        """Note the end of it. Raises nothing."""
        try:
            if self._block is not None:
                self._block.end()
        except Exception as error:
            self._block, self._why = None, f"{error!r}"
