"""``comfy-remote trust``: trusting what a folder's files name, and taking that back."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ParamSpec

import click

from ..clean import one_line
from .asking import can_ask
from .console import print_json, printable_line, say
from .options import json_option

if TYPE_CHECKING:
    from ..config.trust import TrustStore
    from ..errors import ConfigurationError, NotTrusted

__all__ = ["asks_for_trust", "trust"]

_P = ParamSpec("_P")


@click.command()
@click.argument("file", metavar="[FILE]", required=False, type=click.Path(path_type=Path))
@click.option(
    "--list",
    "list_it",
    is_flag=True,
    help="List all that you trust, also what you confirmed in the page.",
)
@click.option("--remove", metavar="FILE|URL", help="Stop trusting a file, or an address.")
@json_option
def trust(file: Path | None, list_it: bool, remove: str | None, json_lines: bool) -> None:
    """Trust the addresses and variables that a folder's files name.

    A comfy-remote.toml or .env in the current folder, or above it, may have come with somebody
    else's workflow. Until you trust what it names, nothing is sent to its addresses, no
    variable is read for it, and its .env sets none. It can still choose one of your own
    targets as the default. A changed address or variable asks again.

    FILE is a comfy-remote.toml, a .env, the modal_config.json of a project, or a folder with them,
    or a lock (NAME.lock) or packed workflow, which name addresses of models, and node packs; by
    default, those that are found from the current folder. Trusting takes a person at a
    terminal. Without one, name a comfy-remote.toml with --config, or put the file into your own
    configuration folder: neither has to be trusted first.

    \b
    Examples:
      comfy-remote trust
      comfy-remote trust --list
      comfy-remote trust --remove ./comfy-remote.toml
    """
    from ..config.folders import home
    from ..config.trust import TrustStore

    if (file is not None) + list_it + (remove is not None) > 1:
        raise click.UsageError("Give one of FILE, --list and --remove.")
    if json_lines and not list_it:
        raise click.UsageError("--json goes with --list.")
    store = TrustStore(home())
    if list_it:
        _list(store, json_lines=json_lines)
    elif remove is not None:
        _remove(store, remove)
    else:
        files = _files(file)
        unasked = [path for path in files if not _settled(store, path)]
        if unasked:
            raise _nobody_to_ask(unasked)


def asks_for_trust(command: Callable[_P, None]) -> Callable[_P, None]:
    """A command's function that asks for the trust it lacks, at a terminal, and begins again.

    Nothing has been sent by then: trust is checked before a target is opened.
    """

    @functools.wraps(command)
    def asking(*arguments: _P.args, **options: _P.kwargs) -> None:
        from ..config.environment import load_env_files
        from ..errors import NotTrusted

        while True:
            load_env_files()
            try:
                return command(*arguments, **options)
            except NotTrusted as error:
                if not _asked(error):
                    raise

    return asking


def _asked(error: NotTrusted) -> bool:
    """Whether a person was asked, and agreed."""
    from ..config.folders import home
    from ..config.trust import TrustStore

    if error.asks_for is None or not can_ask():
        return False
    say(error.message)
    return _confirmed(TrustStore(home()), *error.asks_for)


def _confirmed(store: TrustStore, path: Path, names: Sequence[str]) -> bool:
    say(f"{path} names:")
    _show(names)
    if not click.confirm("Do you trust this?", default=False, err=True):
        return False
    store.trust(path, names)
    return True


def _files(file: Path | None) -> list[Path]:
    """The files that are meant: those that exist and have a name that can be trusted."""
    from ..config.environment import env_files
    from ..config.folders import CONFIG_NAME, ENV_NAME, nearest
    from ..deploy.modal.config import CONFIG_FILE as MODAL_CONFIG
    from ..errors import ConfigurationError
    from ..workflow.load import is_packed

    if file is None:
        near = nearest(CONFIG_NAME)
        found = [*([near] if near else []), *env_files()[:1]]
        where = "in this folder or above it"
    else:
        given = file.expanduser().absolute()
        names = (CONFIG_NAME, ENV_NAME, MODAL_CONFIG)
        places = [given / name for name in names] if given.is_dir() else [given]
        found = [path for path in places if path.is_file()]
        found = [one for one in found if one.name in names or is_packed(one) or _is_lock(one)]
        where = f"at {file}"
    if not found:
        raise ConfigurationError(
            f"There is no {CONFIG_NAME} or {ENV_NAME} {one_line(where)}.",
            advice="A file of another name is used with --config FILE only, which needs no trust.",
        )
    return found


def _settled(store: TrustStore, path: Path) -> bool:
    """Show what a file names, and ask; ``False`` if nobody can be asked. Exits at a no."""
    from ..config.folders import is_owners

    if is_owners(path):
        say(f"{path} is your own: it is in one of your configuration folders, and is always used.")
        return True
    names = _named(path)
    if not names:
        say(f"{path} names nothing that has to be trusted.")
    elif not store.missing(path, names):
        say(f"You trust all that {path} names:")
        _show(names)
    elif not can_ask():
        say(f"{path} names:")
        _show(names)
        return False
    elif _confirmed(store, path, names):
        say(f"It is used from now on. To stop trusting it: comfy-remote trust --remove {path}")
    else:
        say(f"Nothing has changed: what you have not trusted in {path} is not used.")
        raise click.exceptions.Exit(1)
    return True


def _show(names: Sequence[str]) -> None:
    for name in names:
        say(f"  {name}")


def _nobody_to_ask(paths: list[Path]) -> ConfigurationError:
    from ..config.folders import CONFIG_NAME, ENV_NAME, owner_folders
    from ..deploy.modal.config import CONFIG_FILE as MODAL_CONFIG
    from ..errors import ConfigurationError

    own = owner_folders()[0]
    instead = {
        CONFIG_NAME: f"name it with --config (or COMFY_REMOTE_CONFIG), or put it into {own}",
        "": "name what you need of it yourself (for node packs, --pack)",
        ENV_NAME: f"set the variables in the environment, or put it into {own}",
        MODAL_CONFIG: "with comfy-remote deploy modal, give what it names with options (--secret, "
        "--custom-node, --pip, --apt), and have its files written again (--clean)",
    }
    return ConfigurationError(
        f"Nobody can be asked whether to trust {one_line(' and '.join(map(str, paths)))}: that "
        "takes a person at a terminal.",
        advice=" ".join(
            f"Without one, for {path.name}: {instead.get(path.name, instead[''])}."
            for path in paths
        ),
    )


def _named(path: Path) -> list[str]:
    from ..config.config_file import read_config
    from ..config.environment import read_env_file
    from ..config.folders import ENV_NAME
    from ..config.settings import Configuration, named_in
    from ..config.trust import named_variable
    from ..deploy.modal.config import CONFIG_FILE as MODAL_CONFIG
    from ..workflow.load import is_packed

    if is_packed(path):
        return _named_in_packed(path)
    if _is_lock(path):
        from ..ready.lock import read_lock

        return read_lock(path).named
    if path.name == MODAL_CONFIG:
        from ..deploy.modal.project import named_in_folder

        return named_in_folder(path.parent)
    if path.name == ENV_NAME:
        return [named_variable(name, value) for name, value in read_env_file(path).items()]
    owners = Configuration.load(path.parent).owners
    return list(named_in(read_config(path), owners).values())


def _is_lock(path: Path) -> bool:
    return path.suffix == ".lock"


def _named_in_packed(path: Path) -> list[str]:
    from ..jobs.unpacked import named_in_packed
    from ..ready.lock import Lock
    from ..workflow.packed import packed_files

    names = named_in_packed(path)
    with path.open("rb") as file:
        lock = packed_files(file, str(path)).lock
    return list(dict.fromkeys([*names, *(Lock.parse(lock, str(path)).named if lock else ())]))


def _list(store: TrustStore, *, json_lines: bool) -> None:
    files, addresses = store.files(), store.addresses()
    if problem := store.problem():
        say(problem)
    if json_lines:
        for path, names in files.items():
            print_json({"file": str(path), "names": names})
        for address in addresses:
            print_json({"address": address})
        return
    if not files and not addresses:
        say("You have not trusted anything yet.")
    for path, names in files.items():
        print(printable_line(f"{path}" if path.exists() else f"{path}  (no longer there)"))
        for name in names:
            print(printable_line(f"  {name}"))
    for address in addresses:
        print(printable_line(f"{address}  (confirmed in ComfyUI's page)"))


def _remove(store: TrustStore, what: str) -> None:
    from ..errors import ConfigurationError

    is_url = what.startswith(("http://", "https://"))
    taken_back = store.forget_address(what) if is_url else store.forget(Path(what).expanduser())
    if not taken_back:
        raise ConfigurationError(
            f"{one_line(what)} is not trusted.", advice="comfy-remote trust --list shows all."
        )
    say(f"No longer trusted: {what}")
