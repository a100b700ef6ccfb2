"""Times as people write them on the command line: `30d`, `12h`, `90m`, or a date."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

from mizzen.errors import InputError

_UNITS = {"d": timedelta(days=1), "h": timedelta(hours=1), "m": timedelta(minutes=1)}
_SPAN = re.compile(r"(\d{1,5})([dhm])")


def ahead(text: str, now: datetime) -> datetime:
    """When `30d` from now, or a date, is. Raises `InputError`."""
    match = _SPAN.fullmatch(text)
    return now + int(match[1]) * _UNITS[match[2]] if match else _date(text)


def back(text: str, now: datetime) -> datetime:
    """When `30d` ago, or a date, was. Raises `InputError`."""
    match = _SPAN.fullmatch(text)
    return now - int(match[1]) * _UNITS[match[2]] if match else _date(text)


def _date(text: str) -> datetime:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise InputError(
            "a time is wrong", saw=repr(text), allowed="30d, 12h, 90m, 2027-01-31 or 2027-01-31T12:00:00Z"
        ) from None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
