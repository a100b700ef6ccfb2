"""Amounts as Kubernetes writes them: `500m`, `2`, `4Gi`."""

from __future__ import annotations

import re
from decimal import Decimal

from mizzen.errors import InputError

AMOUNT = re.compile(r"^([0-9]+(?:\.[0-9]+)?)([a-zA-Z]{0,2}|e[0-9]+)$")
UNITS = {
    "": Decimal(1),
    "n": Decimal("1e-9"),
    "u": Decimal("1e-6"),
    "m": Decimal("1e-3"),
    "k": Decimal(10) ** 3,
    "M": Decimal(10) ** 6,
    "G": Decimal(10) ** 9,
    "T": Decimal(10) ** 12,
    "P": Decimal(10) ** 15,
    "Ki": Decimal(2) ** 10,
    "Mi": Decimal(2) ** 20,
    "Gi": Decimal(2) ** 30,
    "Ti": Decimal(2) ** 40,
    "Pi": Decimal(2) ** 50,
}


def amount(text: str) -> Decimal:
    """The number that `text` means, in bytes or CPUs. Raises `InputError`."""
    found = AMOUNT.match(text)
    unit = found.group(2) if found else ""
    if found and unit in UNITS:
        return Decimal(found.group(1)) * UNITS[unit]
    if found and unit.startswith("e"):
        return Decimal(found.group(1)) * Decimal(10) ** int(unit[1:])
    raise InputError("not an amount as Kubernetes writes it", saw=text, allowed="such as 500m, 2 or 4Gi")


def larger(first: str, second: str) -> str:
    """The larger of two amounts, as it is written."""
    return first if amount(first) >= amount(second) else second
