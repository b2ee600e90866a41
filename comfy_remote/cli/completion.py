"""``comfy-remote completion``: the script that completes both commands in a shell."""

from __future__ import annotations

import click

__all__ = ["completion"]


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print the script that completes comfy-remote and comfy-run-remote with the Tab key.

    \b
    bash, in ~/.bashrc:   eval "$(comfy-remote completion bash)"
    zsh, in ~/.zshrc:     eval "$(comfy-remote completion zsh)"
    fish:  comfy-remote completion fish > ~/.config/fish/completions/comfy-remote.fish
    """
    from click.shell_completion import get_completion_class

    kind = get_completion_class(shell)
    if kind is None:
        raise click.UsageError(f"{shell} is not known here.")
    for name in ("comfy-remote", "comfy-run-remote"):
        variable = f"_{name.replace('-', '_').upper()}_COMPLETE"
        # The script depends on the names alone.
        click.echo(kind(click.Command(name), {}, name, variable).source())
