"""What `comfy-remote serve` shows to those who want to use it."""

from __future__ import annotations

import pytest

from comfy_remote.cli.serve import client_commands

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
