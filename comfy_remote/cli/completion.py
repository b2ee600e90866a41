"""``comfy-remote completion``: both commands completed in a shell with the Tab key."""

from __future__ import annotations

import codecs
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import click

__all__ = ["completion", "know_shells"]

_NAMES = ("comfy-remote", "comfy-run-remote")
_SHELLS = ("bash", "zsh", "fish", "powershell")
_BEGIN, _END = "# >>> comfy-remote completion >>>", "# <<< comfy-remote completion <<<"
# One that has lost its last line ends nowhere: what follows it is the user's.
_BLOCK = re.compile(
    rf"\n?{re.escape(_BEGIN)}(?:(?!{re.escape(_BEGIN)}).)*?{re.escape(_END)}\n?", re.DOTALL
)


@click.command()
@click.argument("shell", type=click.Choice(_SHELLS), required=False)
@click.option(
    "--install", "installs", is_flag=True, help="Set it up for all shells that start from now on."
)
def completion(shell: str | None, installs: bool) -> None:
    """Print the script that completes comfy-remote and comfy-run-remote with the Tab key.

    With --install, it is set up: the script is put into your data folder, and your shell's own
    file gets lines that load it (fish: a file of ours in its folder). Run it again after an
    update; it changes nothing else. SHELL is the one you use, unless you name it.

    \b
    Examples:
      comfy-remote completion --install
      eval "$(comfy-remote completion bash)"
    """
    from .console import say

    if not installs:
        if shell is None:
            raise click.UsageError(f"Give a shell: {', '.join(_SHELLS)}; or --install.")
        click.echo(_script(shell))
        return
    shell = shell or _own_shell()
    changed = _install(shell)
    for path in changed:
        say(f"Written: {path}")
    if not changed:
        say("It is set up already, and up to date.")
    say("Open a new terminal, and type: comfy-remote <Tab>")


def _script(shell: str) -> str:
    from click.shell_completion import get_completion_class

    know_shells()
    kind = get_completion_class(shell)
    if kind is None:
        raise click.UsageError(f"{shell} is not known here.")
    # The script depends on the names alone.
    scripts = [kind(click.Command(name), {}, name, _variable(name)).source() for name in _NAMES]
    return "\n".join(scripts)


def _variable(name: str) -> str:
    return f"_{name.replace('-', '_').upper()}_COMPLETE"


def _own_shell() -> str:
    """The user's shell.

    Raises:
        click.UsageError: It cannot be found, or is another one.
    """
    if sys.platform == "win32":
        return "powershell"
    name = Path(os.environ.get("SHELL", "")).name
    name = "powershell" if name == "pwsh" else name
    if name not in _SHELLS:
        raise click.UsageError(
            f"Which shell is yours? Name it: comfy-remote completion SHELL --install, with SHELL "
            f"{', '.join(_SHELLS[:-1])} or {_SHELLS[-1]}."
        )
    return name


def _install(shell: str) -> list[Path]:
    """Set it up; the files that this has changed."""
    from ..config.folders import home
    from ..media.files import storage_errors

    if shell == "fish":
        folder = Path(os.environ.get("XDG_CONFIG_HOME") or "~/.config").expanduser()
        # fish loads the file that is called as the command.
        written = [folder / "fish" / "completions" / f"{name}.fish" for name in _NAMES]
        return [path for path in written if _written(path, _script(shell))]
    script = home() / "completion" / ("completion.ps1" if shell == "powershell" else shell)
    profile = _profile_of(shell)
    changed = [script] if _written(script, f"{_script(shell)}\n") else []
    with storage_errors(profile):
        if _add_to_profile(profile, _loading(shell, script)):
            changed.append(profile)
    return changed


def _written(path: Path, text: str) -> bool:
    """Write a file of ours, unless it has that text already; whether that changed it."""
    from ..media.files import storage_errors, write_whole

    with storage_errors(path):
        if path.is_file() and path.read_bytes() == text.encode():
            return False
        write_whole(path, text.encode())
    return True


def _add_to_profile(profile: Path, lines: str) -> bool:
    """Put our lines at the end of a shell's file, in place of those that are there already.

    Whether that changed it.

    The file is whole at every moment: without it, a shell may be of no use. It keeps its encoding
    (Windows PowerShell's may be UTF-16) and its mode; a link into somebody's dotfiles stays one.
    """
    from ..media.files import write_whole

    real = Path(os.path.realpath(profile))
    content = real.read_bytes() if real.exists() else b""
    utf_16 = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    encoding, errors = ("utf-16", "surrogatepass") if utf_16 else ("utf-8", "surrogateescape")
    mine = _BLOCK.sub("", content.decode(encoding, errors)).rstrip("\n")
    text = f"{mine}\n\n{_BEGIN}\n{lines}\n{_END}\n".lstrip("\n")
    if text.encode(encoding, errors) == content:
        return False
    mode = real.stat().st_mode & 0o777 if real.exists() else 0o644
    write_whole(real, text.encode(encoding, errors), mode=mode)
    return True


def _profile_of(shell: str) -> Path:
    if shell == "bash":
        return Path("~/.bashrc").expanduser()
    if shell == "zsh":
        return Path(os.environ.get("ZDOTDIR") or "~").expanduser() / ".zshrc"
    program = shutil.which("pwsh") or shutil.which("powershell")
    if program is None:
        raise click.UsageError("There is no PowerShell on this machine.")
    # Its folder may be in OneDrive, or elsewhere by policy: only it knows.
    asked = subprocess.run(
        [program, "-NoProfile", "-NonInteractive", "-Command", "$PROFILE"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    said = asked.stdout.strip()
    if asked.returncode or not said:
        raise click.UsageError("PowerShell did not say where its profile is ($PROFILE).")
    return Path(said)


def _loading(shell: str, script: Path) -> str:
    if shell == "powershell":
        quoted = str(script).replace("'", "''")
        return f"if (Test-Path '{quoted}') {{ . '{quoted}' }}"
    import shlex

    quoted = shlex.quote(str(script))
    load = f"[ -r {quoted} ] && . {quoted}"
    if shell == "bash":
        return load
    return f"(( $+functions[compdef] )) || {{ autoload -Uz compinit && compinit; }}\n{load}"


# Click's own asks for the words that readline made, which end at a colon: "example:co" is three.
_BASH = """\
%(complete_func)s() {
    local IFS=$'\\n' response completion type value before=
    local line="${COMP_LINE:0:COMP_POINT}"
    local word="${line##*[[:space:]]}"
    # readline replaces what follows the last colon alone.
    [[ $COMP_WORDBREAKS == *:* && $word == *:* ]] && before="${word%%"${word##*:}"}"
    response=$(env COMP_WORDS="$line" COMP_CWORD="$word" %(complete_var)s=bash_complete $1)
    for completion in $response; do
        IFS=',' read type value <<< "$completion"
        case $type in
            dir) COMPREPLY=(); compopt -o dirnames ;;
            file) compopt -o default ;;
            plain) COMPREPLY+=("${value#"$before"}"); [[ $value == *: ]] && compopt -o nospace ;;
        esac
    done
    return 0
}
complete -o nosort -F %(complete_func)s %(prog_name)s
"""

_POWERSHELL = """\
Register-ArgumentCompleter -Native -CommandName %(prog_name)s -ScriptBlock {
    param($word, $line, $cursor)
    $text = $line.ToString()
    $env:COMP_WORDS = $text.Substring(0, [Math]::Min($cursor, $text.Length))
    $env:COMP_CWORD = $word
    $env:%(complete_var)s = "powershell_complete"
    try {
        %(prog_name)s | ForEach-Object {
            $value, $help = $_ -split "`t", 2
            if (-not $help) { $help = $value }
            $kind = "ParameterValue"
            [System.Management.Automation.CompletionResult]::new($value, $value, $kind, $help)
        }
    } finally {
        Remove-Item Env:COMP_WORDS, Env:COMP_CWORD, Env:%(complete_var)s
    }
}
"""


def know_shells() -> None:
    """Have click know PowerShell, as it knows the others, and words with colons in bash."""
    from click.shell_completion import (
        BashComplete,
        CompletionItem,
        ShellComplete,
        add_completion_class,
        split_arg_string,
    )

    class PowerShellComplete(ShellComplete):
        """What `Register-ArgumentCompleter` asks for: a value and its help a line."""

        name = "powershell"
        source_template = _POWERSHELL

        def get_completion_args(self) -> tuple[list[str], str]:
            """The words before the one that is being typed, and that one."""
            incomplete = os.environ.get("COMP_CWORD", "")
            # A backslash is part of a Windows path.
            words = split_arg_string(os.environ.get("COMP_WORDS", "").replace("\\", "\\\\"))[1:]
            if incomplete and words and words[-1] == incomplete:
                words.pop()
            return words, incomplete

        def format_completion(self, item: CompletionItem) -> str:
            """One line."""
            help_text = " ".join((item.help or "").split())
            return f"{item.value}\t{help_text}" if help_text else str(item.value)

    class OurBashComplete(BashComplete):
        """The line up to the cursor, and its last word."""

        source_template = _BASH

        def get_completion_args(self) -> tuple[list[str], str]:
            """The words before the one that is being typed, and that one."""
            words = split_arg_string(os.environ["COMP_WORDS"])
            incomplete = words.pop() if os.environ["COMP_CWORD"] and words else ""
            return words[1:], incomplete

    add_completion_class(PowerShellComplete)
    add_completion_class(OurBashComplete)
