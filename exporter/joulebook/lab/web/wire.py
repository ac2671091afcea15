"""What the command line reads from a lab server: rows as they are booked, in MessagePack.

Reports are then made where they are printed, by the same code as from a file, so that no figure
can differ.
"""

from __future__ import annotations

import msgspec

from joulebook import __version__
from joulebook.core.report.dataset import ReportData, Selection
from joulebook.errors import InputError
from joulebook.lab.collected.bills import PeriodSum
from joulebook.lab.web.bill_view import SeenBill

MEDIA_TYPE = "application/msgpack"
VERSION_HEADER = "X-Joulebook-Version"
HEADERS = {VERSION_HEADER: __version__}

encode = msgspec.msgpack.encode

DATA = msgspec.msgpack.Decoder(ReportData)
BILL = msgspec.msgpack.Decoder(SeenBill)
PERIODS = msgspec.msgpack.Decoder(list[PeriodSum])
_SELECTION = msgspec.json.Decoder(Selection)


def selection(text: str) -> Selection:
    """Read a selection as it is in a query. Raises `InputError`."""
    try:
        return _SELECTION.decode(text or "{}")
    except msgspec.DecodeError as error:
        raise InputError(f"selection: {error}", reason="selection") from None
