"""Energy and money of a run, from its hours and the prices in the settings. What has no price is left out, not zero."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Prices:
    """A device's hour, or its watts and a kilowatt-hour; an hour of staff, and the hours that the data takes."""

    currency: str = "EUR"
    device_hour: float | None = None
    watts: float | None = None
    kwh: float | None = None
    staff_hour: float | None = None
    preparation_hours: float | None = None


@dataclass(frozen=True)
class Cost:
    """`energy_kwh` and `money` are None where the settings have no figure for them."""

    energy_kwh: float | None
    device: float | None
    staff: float | None
    currency: str

    @property
    def money(self) -> float | None:
        known = [part for part in (self.device, self.staff) if part is not None]
        return sum(known) if known else None


def cost_of(seconds: float, processes: int, prices: Prices, watts: float | None = None) -> Cost:
    """Of one run. `watts` were measured on the device while something like it ran; else the settings' figure."""
    hours = seconds / 3600 * processes
    power = watts if watts is not None else prices.watts
    energy = None if power is None else power * hours / 1000
    device = None
    if prices.device_hour is not None:
        device = prices.device_hour * hours
    elif energy is not None and prices.kwh is not None:
        device = energy * prices.kwh
    staff = None
    if prices.staff_hour is not None and prices.preparation_hours is not None:
        staff = prices.staff_hour * prices.preparation_hours
    return Cost(energy, device, staff, prices.currency)
