"""Secrets: read by name, known by value, removed from what is shown and written.

A configuration may give a secret any name (``key_env = "STUDIO"``), so the name proves
nothing: each value that is read as a secret is noted in `SECRETS`, and `redact` finds it in any
text, also as JSON, a URL or base64 write it.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from typing import TYPE_CHECKING

from .types import JsonValue, with_texts

if TYPE_CHECKING:
    from pydantic import SecretStr

__all__ = [
    "KEY_RING_SERVICE",
    "SECRETS",
    "SecretValues",
    "looks_secret",
    "redact",
    "redact_json",
    "secret",
]

KEY_RING_SERVICE = "comfy-remote"
"""Under which the key ring has our secrets: ``keyring set comfy-remote RUNPOD_API_KEY``."""

_SECRET_WORD = re.compile(
    "AUTH|BEARER|COOKIE|CRED(ENTIAL)?S?|DSN|JWT|KEYS?|PASSPHRASE|PAT|PEM|PWD|SECRETS|SK|TOKENS"
    "|.*(APIKEY|ACCESSKEY|PASSWORD|PASSWD|PASS|SECRET|TOKEN)"  # PGPASSWORD, GITHUBTOKEN
)
_NO_SECRETS = {"PWD", "OLDPWD", "SSH_AUTH_SOCK"}
_PASSWORD_IN_URL = re.compile(r"://[^/@:\s]*:([^/@\s]+)@")
# A shorter one may well be an ordinary word.
_SHORTEST_SECRET = 6


class SecretValues:
    """The values of secrets, and all the ways in which a text may write them."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: dict[str, str] = {}
        self._held: dict[str, int] = {}
        self._forms: tuple[tuple[str, str], ...] | None = ()

    def add(self, name: str, value: str) -> None:
        """Note a value; ``[name]`` stands for it from now on."""
        with self._lock:
            self._held.pop(value, None)  # it stays, whoever else holds it
            if value not in self._known:
                self._known[value] = name
                self._forms = None

    def add_environment(
        self, environ: Mapping[str, str], names: Collection[str] | None = None
    ) -> None:
        """Note the values of the variables ``names``; by default, those that look like secrets."""
        if names is None:
            found = list(_secrets_in(environ))
        else:
            found = [(environ[name].strip(), name) for name in names if name in environ]
        for value, name in found:
            self.add(name, value)

    @contextmanager
    def holding(self, values: Mapping[str, str]) -> Iterator[None]:
        """Note some values, by name, for a while: those that came with a job.

        One that several jobs hold is noted until the last of them has ended.
        """
        held = {value: name for name, value in values.items()}
        with self._lock:
            for value, name in held.items():
                if value not in self._known:
                    self._known[value] = name
                    self._held[value] = 0
                    self._forms = None
                if value in self._held:
                    self._held[value] += 1
        try:
            yield
        finally:
            with self._lock:
                for value in held.keys() & self._held.keys():
                    self._held[value] -= 1
                    if not self._held[value]:
                        del self._held[value], self._known[value]
                        self._forms = None

    def clear(self) -> None:
        """Forget all values."""
        with self._lock:
            self._known.clear()
            self._held.clear()
            self._forms = ()

    def redact(self, text: str) -> str:
        """The text with ``[NAME]`` for each value."""
        with self._lock:
            if self._forms is None:
                self._forms = _forms(self._known.items())
            forms = self._forms
        return _replaced(text, forms)


SECRETS = SecretValues()
"""What this process has read as a secret. There is one for the process, as for its log handlers:
nothing that it writes may contain them."""


def secret(name: str, environment: Mapping[str, str]) -> SecretStr | None:
    """A secret by the name of its environment variable; ``None`` where it is not set.

    What the environment does not have is looked for in the system's key ring, where the package
    ``keyring`` is installed (``pip install keyring``).
    """
    value = environment.get(name, "").strip() or _from_key_ring(name)
    if not value:
        return None
    from pydantic import SecretStr  # here: it takes long to import

    SECRETS.add(name, value)
    return SecretStr(value)


def _from_key_ring(name: str) -> str:
    from importlib.util import find_spec

    if find_spec("keyring") is None:
        return ""
    try:
        import keyring

        return (keyring.get_password(KEY_RING_SERVICE, name) or "").strip()
    except Exception as error:  # noqa: BLE001  a backend is others' code: it raises what it likes
        # A locked ring, or a machine without one: as if nothing were in it.
        import logging  # here, like keyring: most commands need neither

        logging.getLogger(__name__).debug("The key ring cannot be used: %s", type(error).__name__)
        return ""


def looks_secret(name: str) -> bool:
    """Whether a variable is named like a secret: ``GITHUB_PAT``, ``PGPASSWORD``, ``R2_KEY``."""
    upper = name.upper()
    if upper in _NO_SECRETS:
        return False
    words = re.split(r"[^A-Z]+", upper)  # TOKEN2 is another token
    return any(_SECRET_WORD.fullmatch(word) for word in words)


def redact(text: str, environ: Mapping[str, str] | None = None) -> str:
    """``text`` with ``[NAME]`` for every secret that this process has read.

    With ``environ``, also for its variables that are named like secrets, and passwords in its URLs.
    """
    text = SECRETS.redact(text)
    return _replaced(text, _forms_in(tuple(environ.items()))) if environ else text


def redact_json(value: JsonValue) -> JsonValue:
    """The same JSON value with all of its texts, keys too, redacted."""
    return with_texts(value, redact)


def _secrets_in(environ: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    from urllib.parse import unquote  # here: not every command needs it

    for name, value in environ.items():
        # Whoever has RunPod's job addresses can take and answer the endpoint's jobs.
        if looks_secret(name) or name.upper().startswith("RUNPOD_WEBHOOK_"):
            yield value, name
        for password in _PASSWORD_IN_URL.findall(value):
            yield password, name
            yield unquote(password), name  # as whoever uses it says it


@lru_cache(maxsize=4)  # a log asks for the same environment with each line
def _forms_in(environ: tuple[tuple[str, str], ...]) -> tuple[tuple[str, str], ...]:
    return _forms(_secrets_in(dict(environ)))


def _forms(secrets: Iterable[tuple[str, str]]) -> tuple[tuple[str, str], ...]:
    """Each way to write each value, with its name; the longest first, so that one which contains
    another is replaced completely."""
    forms = {
        form: name
        for value, name in secrets
        if len(value) >= _SHORTEST_SECRET
        for form in _written(value)
    }
    return tuple(sorted(forms.items(), key=lambda pair: -len(pair[0])))


def _written(value: str) -> set[str]:
    import base64  # here, both: not every command needs them
    from urllib.parse import quote, quote_plus

    raw = value.encode("utf-8", "surrogatepass")
    return {
        value,
        json.dumps(value)[1:-1],
        json.dumps(value, ensure_ascii=False)[1:-1],
        quote(raw, safe=""),
        quote(raw),
        quote_plus(raw),
        base64.b64encode(raw).decode("ascii").rstrip("="),
        base64.urlsafe_b64encode(raw).decode("ascii").rstrip("="),
    }


def _replaced(text: str, forms: tuple[tuple[str, str], ...]) -> str:
    for form, name in forms:
        if form in text:
            text = text.replace(form, f"[{name}]")
    return text
