"""What `comfy-remote serve` shows to those who want to use it."""

from __future__ import annotations

from pathlib import Path

import pytest

from comfy_remote.cli.serve import client_commands
from comfy_remote.cli.service import curl_command

URL = "https://box/v2"


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
