"""What `comfy-remote serve` shows to those who want to use it."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from comfy_remote.cli.api import api, sdk_variables
from comfy_remote.cli.serve import client_commands
from comfy_remote.cli.service import curl_command
from comfy_remote.errors import ConfigurationError

ROOT = Path(__file__).parents[2]
URL = "https://box/v2"


def test_what_is_advised_to_install_can_be_installed() -> None:
    """While the package is on no index, its extras cannot be installed by its name."""
    for path in [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("comfy_remote/**/*.py")]:
        if path.name != "CHANGELOG.md":
            assert "comfy-remote[" not in path.read_text("utf-8"), path
    extras = (ROOT / "pyproject.toml").read_text("utf-8")
    serve = (ROOT / "comfy_remote" / "cli" / "serve.py").read_text("utf-8")
    assert '"runpod>=1.12,<1.13"' in extras
    assert '"runpod>=1.12,<1.13"' in serve


@pytest.mark.parametrize(
    ("key", "windows", "lines"),
    [
        ("", False, ["  RUNPOD_ENDPOINT_BASE_URL=https://box/v2 \\", "    {run}"]),
        ("", True, ['  $env:RUNPOD_ENDPOINT_BASE_URL = "https://box/v2"', "  {run}"]),
        (
            "$COMFY_REMOTE_TOKEN",
            False,
            [
                "  RUNPOD_ENDPOINT_BASE_URL=https://box/v2 RUNPOD_API_KEY=$COMFY_REMOTE_TOKEN \\",
                "    {run}",
            ],
        ),
        (
            "$COMFY_REMOTE_TOKEN",
            True,
            [
                '  $env:RUNPOD_ENDPOINT_BASE_URL = "https://box/v2"',
                '  $env:RUNPOD_API_KEY = "$env:COMFY_REMOTE_TOKEN"',
                "  {run}",
            ],
        ),
    ],
)
def test_a_client_is_shown_what_its_shell_takes(key: str, windows: bool, lines: list[str]) -> None:
    run = "comfy-remote run WORKFLOW.json --on runpod:shop"
    shown = client_commands(URL, key, "shop", windows=windows)
    assert shown == "\n".join(lines).replace("{run}", run)


@pytest.mark.parametrize(
    ("file", "token", "windows", "command"),
    [
        (None, False, False, "curl https://box/v2"),
        (None, True, False, 'curl -H "Authorization: Bearer $COMFY_REMOTE_TOKEN" https://box/v2'),
        (Path("a/t"), True, False, 'curl -H "Authorization: Bearer $(cat t)" https://box/v2'),
        # In Windows PowerShell, `curl` alone is another program.
        (
            None,
            True,
            True,
            'curl.exe -H "Authorization: Bearer $env:COMFY_REMOTE_TOKEN" https://box/v2',
        ),
        (Path("a/t"), True, True, 'curl.exe -H "Authorization: Bearer $(cat t)" https://box/v2'),
    ],
)
def test_a_caller_is_shown_what_its_shell_takes(
    file: Path | None, token: bool, windows: bool, command: str
) -> None:
    assert curl_command(URL, file, token=token, windows=windows) == command


@pytest.mark.parametrize(
    ("file", "token", "windows", "lines"),
    [
        (None, False, False, ["export COMFY_BASE_URL=https://box"]),
        (None, False, True, ['$env:COMFY_BASE_URL = "https://box"']),
        (
            None,
            True,
            False,
            ["export COMFY_BASE_URL=https://box", 'export COMFY_API_KEY="$COMFY_REMOTE_TOKEN"'],
        ),
        (
            Path("a/t"),
            True,
            False,
            ["export COMFY_BASE_URL=https://box", 'export COMFY_API_KEY="$(cat t)"'],
        ),
        (
            None,
            True,
            True,
            [
                '$env:COMFY_BASE_URL = "https://box"',
                "$env:COMFY_API_KEY = $env:COMFY_REMOTE_TOKEN",
            ],
        ),
        (
            Path("a/t"),
            True,
            True,
            ['$env:COMFY_BASE_URL = "https://box"', "$env:COMFY_API_KEY = (Get-Content t)"],
        ),
    ],
)
def test_comfys_sdk_is_shown_where_to_go(
    file: Path | None, token: bool, windows: bool, lines: list[str]
) -> None:
    shown = sdk_variables("https://box", file, token=token, windows=windows)
    assert shown.splitlines() == [f"  {line}" for line in lines]


@pytest.mark.parametrize("named", ["http://127.0.0.1:8189", "http://localhost:8189/api/v2"])
def test_the_served_api_is_not_its_own_target(named: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the shell where its variables were set, as it advises."""
    monkeypatch.setenv("COMFY_BASE_URL", named)
    done = CliRunner().invoke(api, [])
    assert isinstance(done.exception, ConfigurationError)
    assert "is this server itself" in done.exception.message
    assert "--on" in done.exception.advice
