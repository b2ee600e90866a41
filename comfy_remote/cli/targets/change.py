"""``comfy-remote targets remove`` and ``default``."""

from __future__ import annotations

import click

from ..options import complete_target

__all__ = ["default", "remove"]


@click.command()
@click.argument("name", metavar="NAME", shell_complete=complete_target)
@click.option("--forget-key", is_flag=True, help="Remove its stored key, too.")
def remove(name: str, forget_key: bool) -> None:
    """Remove a target from your own comfy-remote.toml. Its jobs stay in the record."""
    from ...config.own_file import OwnFile
    from ...config.settings import Configuration
    from ...config.stored_secrets import forget_secret
    from ...targets.kinds import secret_variables
    from ..console import say

    settings = Configuration.load().targets.get(name)
    with OwnFile.changing() as own:
        own.remove(name)
    say(f"Removed {name} from {own.path}.")
    if not forget_key or settings is None:
        return
    unused = Configuration.load().unused_secrets(settings)
    for variable in secret_variables(settings):
        if variable not in unused:
            say(f"{variable} stays: another target has it.")
        else:
            forget_secret(variable)
            say(f"{variable} is forgotten. One that the environment sets is not ours to remove.")


@click.command(short_help="Choose the target that is used where none is named.")
@click.argument("name", required=False, metavar="[NAME]", shell_complete=complete_target)
@click.option("--none", "none", is_flag=True, help="Have no default.")
def default(name: str | None, none: bool) -> None:
    """Choose the target that is used where none is named: a name or an address."""
    from ...config.own_file import OwnFile
    from ...config.settings import Configuration
    from ...errors import ConfigurationError
    from ...targets.kinds import kind_of, typed_target
    from ..console import say

    if none == (name is not None):
        raise click.UsageError("Give a name, or --none.")
    if name is not None:
        name = typed_target(name)
        if Configuration.load().settings_of(name) is None and kind_of(name) is None:
            raise ConfigurationError(
                f"There is no target {name!r}.",
                advice="`comfy-remote targets` lists them; `comfy-remote targets add` adds one.",
            )
    with OwnFile.changing() as own:
        own.make_default(name)
    say(Configuration.load().usual_sentence())
