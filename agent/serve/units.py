"""Units as OPC UA names them: UNECE Recommendation 20 common codes (OPC 10000-8, 5.6.4.3).  Pure.

A unit that is not in the table is given by its symbol alone, with the id -1, as the standard asks.
"""

from typing import Final

from asyncua import ua

_NAMESPACE: Final = "http://www.opcfoundation.org/UA/units/un/cefact"
_CODES: Final = {
    "": ("C62", "one"),
    "1": ("C62", "one"),
    "%": ("P1", "percent"),
    "s": ("SEC", "second [unit of time]"),
    "min": ("MIN", "minute [unit of time]"),
    "h": ("HUR", "hour"),
    "d": ("DAY", "day"),
    "mm": ("MMT", "millimetre"),
    "µm": ("4H", "micrometre (micron)"),
    "m": ("MTR", "metre"),
    "mm/s": ("C16", "millimetre per second"),
    "m/s²": ("MSK", "metre per second squared"),
    "°C": ("CEL", "degree Celsius"),
    "K": ("KEL", "kelvin"),
    "bar": ("BAR", "bar [unit of pressure]"),
    "Pa": ("PAL", "pascal"),
    "N·m": ("NU", "newton metre"),
    "Nm": ("NU", "newton metre"),
    "N": ("NEW", "newton"),
    "r/min": ("RPM", "revolutions per minute"),
    "rpm": ("RPM", "revolutions per minute"),
    "Hz": ("HTZ", "hertz"),
    "A": ("AMP", "ampere"),
    "V": ("VLT", "volt"),
    "W": ("WTT", "watt"),
    "kW": ("KWT", "kilowatt"),
    "kWh": ("KWH", "kilowatt hour"),
    "l/min": ("L2", "litre per minute"),
    "kg": ("KGM", "kilogram"),
}


def engineering_units(unit: str) -> ua.EUInformation:
    """The EngineeringUnits property of a value in this unit; empty means a number without one."""
    code, name = _CODES.get(unit, ("", unit))
    return ua.EUInformation(
        NamespaceUri=_NAMESPACE if code else "",
        UnitId=int.from_bytes(code.encode("ascii"), "big") if code else -1,
        DisplayName=ua.LocalizedText(unit or "1"),
        Description=ua.LocalizedText(name),
    )
