"""``comfy-remote targets list``: what is configured, and where."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ..console import print_json, print_table, say
from ..options import json_option

if TYPE_CHECKING:
    from ...config.settings import Configuration
    from ...config.target_settings import TargetSettings
    from ...schedule.money import Price
    from ...types import JsonValue

__all__ = ["list_targets"]


@dataclass(frozen=True, slots=True)
class _Row:
    """One target.

    Attributes:
        price_words: What stands for the price, for people.
    """

    name: str
    target: str
    default: bool
    key_env: str | None
    key_set: bool | None
    secrets: dict[str, bool]
    file: str
    trusted: bool
    price: Price | None
    price_words: str

    def to_json(self) -> dict[str, JsonValue]:
        """A line of ``--json``; in json_lines.schema.json."""
        from ...jobs.prices import hour_to_json

        fields = asdict(self)
        del fields["price"], fields["price_words"]
        return {**fields, **hour_to_json(self.price)}

    def cells(self) -> tuple[str, ...]:
        """For people."""
        keys = [
            f"{name} {'is set' if known else 'is not set'}" for name, known in self.secrets.items()
        ]
        return (
            f"{self.name} (default)" if self.default else self.name,
            self.target,
            "\n".join(keys) or ("none" if self.trusted else "not looked for"),
            self.price_words,
            self.file if self.trusted else f"{self.file} (not trusted yet)",
        )


@click.command("list")
@json_option
def list_targets(json_lines: bool) -> None:
    """List the configured targets.

    Those that comfy-remote.toml names, the file they were read from, and whether their keys are
    set. What a folder's file names and you have not trusted (see comfy-remote trust) is marked.
    """
    from ...config.folders import CONFIG_NAME
    from ...config.settings import DEFAULT_TARGET, Configuration
    from ...targets.kinds import forms

    configuration = Configuration.load()
    untrusted = configuration.untrusted
    refused = untrusted is not None and untrusted.default is not None
    chosen = None if refused else configuration.choose(None)
    rows = [
        _row(name, settings, configuration.origins[name], configuration, default=name == chosen)
        for name, settings in configuration.targets.items()
    ]
    if untrusted is not None:
        rows += [
            _row(name, settings, untrusted.path, configuration, trusted=False)
            for name, settings in untrusted.targets.items()
        ]
    if json_lines:
        for row in rows:
            print_json(row.to_json())
        return
    if rows:
        from rich.table import Column

        titles = ("Name", "Target", "Key", "Price", "Read from")
        print_table([Column(one, overflow="fold") for one in titles], [row.cells() for row in rows])
    else:
        say(
            f"No targets are configured: there is no {CONFIG_NAME} in this folder, above it, or "
            "in the user's configuration folder."
        )
    if untrusted is not None:
        say(untrusted.sentence())
    if chosen is None:
        say("Without --on, nothing runs until you have trusted the default target.")
    else:
        _, why = configuration.usual()
        named = f", {why}," if why and chosen != configuration.default else ""
        say(
            f"Without --on, {'the sandbox' if chosen == DEFAULT_TARGET else chosen}{named} is used."
        )
    say(f"These also work: {forms()}.")


def _row(
    name: str,
    settings: TargetSettings,
    path: Path,
    configuration: Configuration,
    *,
    trusted: bool = True,
    default: bool = False,
) -> _Row:
    from ...errors import ConfigurationError
    from ...jobs.prices import hour_words, remembered_price
    from ...secrets import secret
    from ...targets.kinds import kind_of, members_of, secret_variables

    kind = kind_of(settings.target)
    variable = settings.key_env if kind is None else kind.key_variable(settings)
    variables = secret_variables(settings) if trusted else ()  # not even looked for
    known = {one: secret(one, os.environ) is not None for one in variables}
    key_set = known.get(variable) if variable else None
    price = remembered_price(name, configuration).price if trusted else None
    words = "" if price is None else hour_words(price)
    if price is None and trusted:
        with suppress(ConfigurationError):  # its address is wrong: whoever uses it is told
            words = "not known" if configuration.billing_of(name) is not None else "nothing"
            words = "its members'" if members_of(settings) else words
    return _Row(
        *(name, settings.target, default, variable, key_set, known, str(path), trusted),
        price=price,
        price_words=words,
    )
