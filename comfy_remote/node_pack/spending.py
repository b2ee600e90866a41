"""What the panel says of money: what is spent today, and the caps, which can be set there."""

from __future__ import annotations

import asyncio
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from ..clean import one_line
from ..config.config_file import ConfigFile, read_config
from ..config.own_file import OwnFile, own_path
from ..config.settings import Configuration
from ..errors import ComfyRemoteError
from ..jobs.record import Record
from ..schedule.caps import Cap, Span
from ..types import JsonValue

__all__ = ["CapsForm", "day_of_all", "set_caps", "spending"]

_ALL_TODAY = Cap(0.0, "day")
_SPANS: tuple[Span, ...] = ("job", "day", "month")

_Dollars = Annotated[float, Field(ge=0, le=1e9, allow_inf_nan=False)]


class CapsForm(BaseModel):
    """What the page's form says of the caps of one target; ``None`` removes one.

    Attributes:
        target: A name of the owner's file; ``None`` for all targets together.
    """

    model_config = ConfigDict(extra="forbid")

    target: Annotated[str, Field(min_length=1, max_length=200)] | None = None
    job: _Dollars | None
    day: _Dollars | None
    month: _Dollars | None


async def day_of_all(record: Record) -> dict[str, JsonValue]:
    """``{"spent", "cap"}``: US dollars spent or reserved today, and the least cap on a day."""
    spent = await record.read(record.ledger.used, _ALL_TODAY)
    caps = await asyncio.to_thread(_caps)
    days = [cap.dollars for cap in caps if cap.span == "day" and cap.target is None]
    return {"spent": round(spent, 6), "cap": min(days, default=None)}


async def spending(record: Record) -> dict[str, JsonValue]:
    """What is spent, and every cap; see ``GET /remote/spending`` in docs/routes.md.

    Raises:
        ConfigurationError: The configuration cannot be read.
    """
    caps, own = await asyncio.to_thread(lambda: (Configuration.load().caps, _own_caps()))
    used = {cap: await record.read(record.ledger.used, cap) for cap in caps if cap.span != "job"}
    return {
        **await day_of_all(record),
        "file": str(own_path()),
        "own": own,
        "caps": [
            {
                "span": cap.span,
                "target": cap.target,
                "dollars": cap.dollars,
                "where": cap.where,
                "spent": round(used[cap], 6) if cap in used else None,
            }
            for cap in caps
        ],
    }


def set_caps(form: CapsForm) -> None:
    """Write the caps of one target, or of all together, into the owner's file. Blocking.

    Raises:
        ConfigurationError: The file has no target of that name.
        LocalStorageError: It cannot be written.
    """
    amounts: dict[Span, float | None] = {"job": form.job, "day": form.day, "month": form.month}
    with OwnFile.changing() as own:
        for span, amount in amounts.items():
            own.set_cap(span, amount, form.target)


def _caps() -> tuple[Cap, ...]:
    try:
        return Configuration.load().caps
    except ComfyRemoteError:
        return ()  # the panel shows what is wrong with it elsewhere


def _own_caps() -> list[JsonValue]:
    """What the form is filled in with: all together, then each target of the owner's file.

    A route has no caps: those of its members count.
    """
    path = own_path()
    file = read_config(path) if path.exists() else ConfigFile()

    def shown(target: str | None, caps: list[Cap]) -> JsonValue:
        amounts = {cap.span: cap.dollars for cap in caps}
        return {"target": target, **{span: amounts.get(span) for span in _SPANS}}

    tables = [
        shown(one_line(name), table.caps(path, name))
        for name, table in file.targets.items()
        if not table.route
    ]
    return [shown(None, file.caps(path)), *tables]
