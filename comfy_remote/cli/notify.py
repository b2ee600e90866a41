"""Saying how a job ended, to somebody who does not look: ``--notify``.

On the desktop, by a command of the user's, or by a webhook. What is sent is the last line of
``--json``; a webhook is signed as the gateway's are (`gateway.webhook`).
"""

from __future__ import annotations

import asyncio
import html
import os
import shlex
import shutil
import subprocess
import sys
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, cast

from ..aio import within
from ..errors import ComfyRemoteError, ConfigurationError
from ..outputs import OutputProblem
from ..types import JsonValue
from ..units import seconds_text
from ..workflow.prompt import Prompt
from .console import json_text, printable_line, say
from .interrupt import run_interruptible
from .reporter import JsonReporter, Outputs, PassingReporter, Reporter

__all__ = ["Ending", "NotifyingReporter", "way_of"]

_PATIENCE = 60.0
_WEBHOOK_PATIENCE = 100.0  # three attempts of half a minute
_RETRY_DELAY = 2.0
_LONGEST = 300
_DESKTOP = "desktop"
_SECRET = "COMFY_REMOTE_WEBHOOK_SECRET"  # noqa: S105  # a variable's name

# As arguments of a script, which is never put together from them.
_APPLE_SCRIPT = (
    "on run argv",
    "display notification (item 2 of argv) with title (item 1 of argv)",
    "end run",
)
# Windows' own PowerShell has these types, and is known to Windows as a program that notifies.
_POWERSHELL = r"""
$ErrorActionPreference = 'Stop'
[void][Windows.UI.Notifications.ToastNotificationManager, Windows.UI.Notifications, ContentType = WindowsRuntime]
$kind = [Windows.UI.Notifications.ToastTemplateType]::ToastText02
$toast = [Windows.UI.Notifications.ToastNotificationManager]::GetTemplateContent($kind)
$texts = $toast.GetElementsByTagName('text')
[void]$texts.Item(0).AppendChild($toast.CreateTextNode($env:COMFY_REMOTE_TITLE))
[void]$texts.Item(1).AppendChild($toast.CreateTextNode($env:COMFY_REMOTE_WORDS))
$program = '{1AC14E77-02E7-4E5D-B744-2EB1AE5198B7}\WindowsPowerShell\v1.0\powershell.exe'
$notifier = [Windows.UI.Notifications.ToastNotificationManager]::CreateToastNotifier($program)
$notifier.Show([Windows.UI.Notifications.ToastNotification]::new($toast))
"""  # noqa: E501


@dataclass(frozen=True, slots=True)
class Ending:
    """How a job ended.

    Attributes:
        state: succeeded, incomplete, cancelled or failed.
        words: A sentence for people, in one line.
        line: The last line of ``--json``, without secrets.
    """

    state: str
    words: str
    job_id: str
    target: str
    line: str

    @classmethod
    def of(cls, line: Mapping[str, object]) -> Ending:
        """From that line, as `JsonReporter` has it."""
        data = cast("dict[str, JsonValue]", dict(line))
        target = str(data.get("target") or "")
        if data["event"] == "result":
            outputs, seconds = data["outputs"], data["seconds"]
            assert isinstance(outputs, list) and isinstance(seconds, int | float)  # noqa: S101
            state = "incomplete" if data["problems"] else "succeeded"
            count = f"{len(outputs)} output{'' if len(outputs) == 1 else 's'}"
            names = ", ".join(str(o["filename"]) for o in outputs[:3] if isinstance(o, dict))
            on = f" on {target}" if target else ""
            words = f"{state.capitalize()}: {count} in {seconds_text(seconds)}{on}: {names}"
        else:
            state = "cancelled" if data["code"] == "cancelled" else "failed"
            words = f"{state.capitalize()}: {data['message']}"
        words = printable_line(words)
        if len(words) > _LONGEST:
            words = f"{words[: _LONGEST - 1]}…"
        return cls(state, words, str(data.get("job_id") or ""), target, json_text(line))


class Way(Protocol):
    """One way to say it."""

    async def say(self, ending: Ending) -> str:
        """Say it; gives why that failed, a sentence, ``""`` if it did not."""


def way_of(text: str) -> Way:
    """What a value of ``--notify`` means; that it can work, as far as is known before.

    Raises:
        ConfigurationError: It cannot.
    """
    if text == _DESKTOP:
        return _Desktop()
    if text.startswith(("http://", "https://")):
        return _Webhook(text)
    return _Command(text)


class _Desktop:
    """The desktop's own notifications."""

    def __init__(self) -> None:
        names = {"win32": "powershell", "darwin": "osascript"}
        name = names.get(sys.platform, "notify-send")
        self._program = _found(name)
        if not self._program:
            raise ConfigurationError(
                f"--notify desktop: there is no {name} on this machine.",
                advice="Install it (on Debian, libnotify-bin has it), or give a command or a "
                "webhook's address.",
            )

    async def say(self, ending: Ending) -> str:
        title, words = "Comfy Remote", ending.words
        environment = dict(os.environ)
        if sys.platform == "win32":
            environment |= {"COMFY_REMOTE_TITLE": title, "COMFY_REMOTE_WORDS": words}
            arguments = ["-NoProfile", "-NonInteractive", "-Command", _POWERSHELL]
        elif sys.platform == "darwin":
            arguments = [part for line in _APPLE_SCRIPT for part in ("-e", line)]
            arguments += [title, words]
        else:
            # Its text may have markup.
            arguments = ["--app-name", title, "--", title, html.escape(words, quote=False)]
        return await _ran([self._program, *arguments], b"", environment)


class _Command:
    """A program of the user's, with its arguments. No shell reads them."""

    def __init__(self, text: str) -> None:
        words = _words(text)
        program = _found(words[0]) if words else ""
        if not program:
            raise ConfigurationError(
                f"--notify {text!r}: there is no such program.",
                advice="Give desktop, a command, or a webhook's address (https://…).",
            )
        if Path(program).suffix.lower() in (".bat", ".cmd"):
            raise ConfigurationError(
                f"--notify: {Path(program).name} would be read by a shell.",
                advice="Give a program, such as: powershell -File SCRIPT.ps1",
            )
        self._command = [program, *words[1:]]

    async def say(self, ending: Ending) -> str:
        known = {
            "{message}": ending.words,
            "{state}": ending.state,
            "{job_id}": ending.job_id,
            "{target}": ending.target,
        }

        def filled(word: str) -> str:
            for name, value in known.items():
                word = word.replace(name, value)
            return word

        program, *arguments = self._command
        command = [program, *map(filled, arguments)]
        return await _ran(command, ending.line.encode() + b"\n", dict(os.environ))


class _Webhook:
    """An address that the line is posted to."""

    def __init__(self, address: str) -> None:
        from yarl import URL

        from ..gateway.webhook import webhook_key
        from ..net.address import base_address
        from ..secrets import secret

        base_address(address.partition("?")[0].partition("#")[0])
        whole = URL(address)
        self._address = address
        self._host = f"{whole.raw_host}:{whole.port}"
        key = secret(_SECRET, os.environ)
        self._key = None if key is None else webhook_key(key)

    async def say(self, ending: Ending) -> str:
        from ..gateway.webhook import deliver
        from ..net.guard import Guard

        accepted = await deliver(
            self._address,
            ending.line.encode(),
            # Its owner has named it, wherever it is; redirects are not followed.
            guard=Guard(frozenset({self._host})),
            retry_delay=_RETRY_DELAY,
            message_id=f"msg_{uuid.uuid4().hex}",
            key=self._key,
        )
        return "" if accepted else f"{self._host} did not accept it"


class NotifyingReporter(PassingReporter):
    """Passes each step on to another reporter, and says in some ways how it ended."""

    def __init__(self, inner: Reporter, ways: Sequence[Way]) -> None:
        super().__init__(inner)
        self._ways = ways
        self._lines: list[Mapping[str, object]] = []
        self._json = JsonReporter(quiet=True, write=self._lines.append)

    def __exit__(self, *exc_info: object) -> None:
        super().__exit__(*exc_info)
        last = self._lines[-1] if self._lines else {}
        if last.get("event") in ("result", "error"):
            run_interruptible(say_all(self._ways, Ending.of({**last})))

    def connecting(self, target: str) -> None:
        self._json.connecting(target)
        super().connecting(target)

    def following(self, job_id: str, target: str, prompt: Prompt) -> None:
        self._json.following(job_id, target, prompt)
        super().following(job_id, target, prompt)

    def done(
        self, outputs: Outputs, seconds: float, problems: Sequence[OutputProblem] = ()
    ) -> None:
        self._json.done(outputs, seconds, problems)
        super().done(outputs, seconds, problems)

    def failed(self, error: ComfyRemoteError, job_id: str | None, *, resumable: bool) -> None:
        self._json.failed(error, job_id, resumable=resumable)
        super().failed(error, job_id, resumable=resumable)


async def say_all(ways: Sequence[Way], ending: Ending) -> None:
    """Say it in all ways, side by side. What fails is a warning: the job is what counts."""

    async def one(way: Way) -> None:
        try:
            why = await within(way.say(ending), _WEBHOOK_PATIENCE)
        except asyncio.TimeoutError:
            why = "it took too long"
        except OSError as error:
            why = error.strerror or str(error)
        if why:
            say(f"Warning: --notify failed: {why}.")

    await asyncio.gather(*map(one, ways))


async def _ran(command: Sequence[str], given: bytes, environment: Mapping[str, str]) -> str:
    """Run a program. What it prints goes to standard error: ours is for the outputs' places."""
    name = Path(command[0]).name
    try:
        done = await asyncio.to_thread(
            subprocess.run,
            command,
            input=given,
            stdout=2,
            stderr=2,
            env=environment,
            timeout=_PATIENCE,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"{name} was still running after {_PATIENCE:.0f} s, and was ended"
    return f"{name} ended with status {done.returncode}" if done.returncode else ""


def _words(text: str) -> list[str]:
    """A command as words, by quotes as in a shell. A backslash of Windows is part of a path."""
    reader = shlex.shlex(text, posix=True, punctuation_chars=False)
    reader.whitespace_split, reader.commenters = True, ""
    if sys.platform == "win32":
        reader.escape = ""
    try:
        return list(reader)
    except ValueError as error:
        raise ConfigurationError(f"--notify {text!r}: {error}.") from None


def _found(name: str) -> str:
    """The program of that name; ``""`` if there is none.

    One in the current folder has to be named as that: Windows looks there first, and the folder may
    be somebody else's.
    """
    found = shutil.which(name)
    if found is None:
        return ""
    named = any(mark in name for mark in ("/", os.sep))
    here = Path(found).absolute().parent == Path.cwd()
    return "" if here and not named and sys.platform == "win32" else found
