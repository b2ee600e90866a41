"""Credentials from ``.env`` files, for those who do not set environment variables.

Read at the edges only: by the command and by the node pack. What the environment has already is
never changed, and nothing but credentials is taken: a ``.env`` is often written for other
programs, too. One in a folder that may have come from somebody has to be trusted first: with
somebody else's key, the pictures are made on somebody else's account.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterable, Iterator, Mapping, MutableMapping
from pathlib import Path

from ..advice import Hint
from ..clean import one_line
from ..errors import ConfigurationError, NotTrusted
from ..secrets import SECRETS
from ..text_file import SAVE_AS_UTF8, NotText, text_of
from .folders import CONFIG_VARIABLE, ENV_NAME, home, is_owners, nearest, owner_folders

# The rest of this folder where it is needed: most users have no such file.

__all__ = [
    "env_files",
    "load_env_files",
    "read_env_file",
    "untrusted_files",
    "unused_env_files",
    "unused_files",
    "withheld",
]

_LARGEST = 256_000  # bytes


def env_files(environment: Mapping[str, str] = os.environ) -> list[Path]:
    """The ``.env`` files that count, the first one first.

    The one in the current folder or the nearest folder above it, unless ``COMFY_REMOTE_CONFIG``
    names a configuration; then those in the owner's folders.
    """
    near = None if environment.get(CONFIG_VARIABLE) else nearest(ENV_NAME)
    owners = (folder / ENV_NAME for folder in owner_folders(environment))
    return list(dict.fromkeys([*([near] if near else []), *(p for p in owners if p.is_file())]))


def load_env_files(environment: MutableMapping[str, str] = os.environ) -> list[Path]:
    """Take the credentials that are not set yet from the `env_files`.

    These are what every kind of target reads (`Kind.address_variable`: ``RUNPOD_ENDPOINT_ID``, …;
    `Kind.own_secrets`: ``RUNPOD_API_KEY``, …), and the variables that targets in
    ``comfy-remote.toml`` name for their keys, passwords and headers. A file of the owner's may set
    them all, any other one those that the owner trusts.

    Returns:
        The files that something was taken from.

    Raises:
        ConfigurationError: One cannot be read.
    """
    used: list[Path] = []
    for path in env_files(environment):
        found = read_env_file(path, environment)
        allowed = found.keys() - _untrusted(path, found, environment).keys()
        new = {name: found[name] for name in allowed if name not in environment}
        if new:
            environment.update(new)
            used.append(path)
    SECRETS.add_environment(environment)
    return used


def read_env_file(path: Path, environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The credentials in one ``.env``, whoever wrote it; nothing else that it sets.

    Raises:
        ConfigurationError: It cannot be read.
    """
    from dotenv import dotenv_values

    try:
        with path.open("rb") as file:
            content = file.read(_LARGEST)
    except OSError as error:
        raise ConfigurationError(
            f"{path} cannot be read: {error.strerror}.", advice="Correct the file, or remove it."
        ) from error
    try:
        text = text_of(content)
    except NotText:  # in what is not for us, perhaps
        text = content.decode("utf-8", "replace")
    # No interpolation: a key may have a $ in it.
    found = dotenv_values(stream=io.StringIO(text), interpolate=False)
    credentials = {name: value for name in _wanted(environment) if (value := found.get(name))}
    if damaged := [name for name, value in credentials.items() if "\ufffd" in value]:
        raise ConfigurationError(
            f"{path} cannot be read: {damaged[0]} is not UTF-8 text.", advice=SAVE_AS_UTF8
        )
    return credentials


def withheld(
    variables: Iterable[str], environment: Mapping[str, str] = os.environ
) -> NotTrusted | None:
    """The error if a ``.env`` has what is lacking, but the owner has not trusted it.

    Args:
        variables: That are needed, and set nowhere else.
    """
    from .trust import TrustStore, not_trusted

    for path, untrusted in _untrusted_env_files(environment):
        if lacking := [name for name in variables if name in untrusted]:
            store = TrustStore(home(environment))
            what = f"The value of {' and '.join(lacking)}"
            own = owner_folders(environment)[0] / ENV_NAME
            advice = Hint.TRUST_ENV(path=str(path), own=str(own))
            return not_trusted(path, list(untrusted.values()), what, store, advice)
    return None


def unused_files(environment: Mapping[str, str] = os.environ) -> list[str]:
    """A sentence for each of the current folder's files that names something not trusted.

    Raises:
        ConfigurationError: A ``comfy-remote.toml`` cannot be read.
    """
    from .settings import Configuration

    untrusted = Configuration.load(environment=environment).untrusted
    sentences = [untrusted.sentence()] if untrusted is not None else []
    return [*sentences, *unused_env_files(environment)]


def unused_env_files(environment: Mapping[str, str] = os.environ) -> list[str]:
    """The same, of the ``.env`` files alone."""
    return [
        Hint.UNUSED(names=", ".join(lacking), how="set by", path=str(path)).mapped(one_line)
        for path, lacking in _untrusted_env_files(environment)
    ]


def untrusted_files(
    environment: Mapping[str, str] = os.environ,
) -> list[tuple[Path, list[str]]]:
    """The current folder's files that name something not trusted, each with those lines.

    What `TrustStore.trust` takes, once a person has seen them and agreed.

    Raises:
        ConfigurationError: A ``comfy-remote.toml`` cannot be read.
    """
    from .settings import Configuration

    untrusted = Configuration.load(environment=environment).untrusted
    files = [(untrusted.path, [*untrusted.named])] if untrusted is not None else []
    files += [(path, [*lines.values()]) for path, lines in _untrusted_env_files(environment)]
    return files


def _untrusted_env_files(environment: Mapping[str, str]) -> Iterator[tuple[Path, dict[str, str]]]:
    """The ``.env`` files that set what is not trusted, each with the result of `_untrusted`."""
    for path in env_files(environment):
        try:
            lacking = _untrusted(path, read_env_file(path, environment), environment)
        except ConfigurationError:
            continue  # `load_env_files` says so
        if lacking:
            yield path, lacking


def _untrusted(
    path: Path, found: Mapping[str, str], environment: Mapping[str, str]
) -> dict[str, str]:
    """Those of a file's variables that are not trusted, each with the line that stands for it."""
    if not found or is_owners(path, environment):
        return {}
    from .trust import TrustStore, named_variable

    named = {name: named_variable(name, value) for name, value in found.items()}
    missing = set(TrustStore(home(environment)).missing(path, named.values()))
    return {name: line for name, line in named.items() if line in missing}


def _wanted(environment: Mapping[str, str]) -> list[str]:
    from ..targets.kinds import kinds, secret_variables
    from .settings import Configuration

    own = ((kind.address_variable, *kind.own_secrets) for kind in kinds())
    known = [name for names in own for name in names if name]
    try:
        targets = Configuration.load(environment=environment).targets.values()
    except ConfigurationError:
        return known  # what needs the configuration reports its error
    named = (name for target in targets for name in secret_variables(target))
    return list(dict.fromkeys([*known, *named]))
