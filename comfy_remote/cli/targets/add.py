"""``comfy-remote targets add``."""

from __future__ import annotations

from pathlib import Path

import click

from ..options import json_option

__all__ = ["add"]


@click.command()
@click.argument("name", metavar="NAME")
@click.argument("address", metavar="ADDRESS")
@click.option("--base-url", metavar="URL", help="Of a gateway, or of an app on Modal.")
@click.option(
    "--key-env",
    metavar="VARIABLE",
    help="The variable with its key. [default with --key-stdin: one for that server alone]",
)
@click.option(
    "--key-stdin",
    is_flag=True,
    help="Read the key from standard input, and store it: in the system's key ring where there is "
    "one, else in a file that only you can read.",
)
@click.option(
    "--partner-key-env",
    metavar="VARIABLE",
    help="comfy:, the variable with the key that partner nodes (API nodes) log in with; without "
    "it, none is sent.",
)
@click.option(
    "--sync-token-env",
    metavar="VARIABLE",
    help="For a ComfyUI with our node pack: the variable that holds the token with which sync may "
    "bring models and node packs to it.",
)
@click.option("--user", metavar="NAME", help="For a ComfyUI behind a login.")
@click.option("--password-env", metavar="VARIABLE", help="The variable with that password.")
@click.option(
    "--ca-file",
    metavar="FILE",
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    help="Certificates to trust for it, besides the system's.",
)
@click.option(
    "--price-per-hour", metavar="DOLLARS", type=click.FloatRange(min=0), help="Of its GPU."
)
@click.option("--default", "as_default", is_flag=True, help="Use it where no target is named.")
@click.option("--replace", is_flag=True, help="Replace one of that name.")
@click.option("--test/--no-test", "tests", default=True, help="Check it first. [default: test]")
@json_option
def add(
    name: str,
    address: str,
    base_url: str | None,
    key_env: str | None,
    key_stdin: bool,
    partner_key_env: str | None,
    sync_token_env: str | None,
    user: str | None,
    password_env: str | None,
    ca_file: Path | None,
    price_per_hour: float | None,
    as_default: bool,
    replace: bool,
    tests: bool,
    json_lines: bool,
) -> None:
    """Add a target to your own comfy-remote.toml.

    ADDRESS is what --on takes: runpod:ID, http://HOST:8188, modal:APP, comfy:cloud,
    route:NAME,NAME, or what RunPod's console shows. It is checked first, as `doctor` does; nothing
    is written if that fails.

    \b
    Examples:
      comfy-remote targets add lan http://192.168.1.20:8188 --default
      comfy-remote targets add gpu runpod:abc123xyz --price-per-hour 0.69
    """
    from ...config.target_settings import TargetSettings
    from ..adding import NewTarget, add_target, key_from_stdin

    settings = TargetSettings(
        address,
        base_url=base_url,
        key_env=key_env,
        partner_key_env=partner_key_env,
        sync_token_env=sync_token_env,
        price_per_hour=price_per_hour,
        user=user,
        password_env=password_env,
        ca_file=None if ca_file is None else str(ca_file.absolute()),
    )
    key = key_from_stdin() if key_stdin else None
    new = NewTarget(name, settings, key)
    add_target(new, as_default=as_default, replace=replace, tests=tests, json_lines=json_lines)
