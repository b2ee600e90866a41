"""``fleet.yaml``: what it may say, and what is wrong with what it may not."""

from __future__ import annotations

from pathlib import Path

import pytest

from comfy_remote.errors import ConfigurationError
from comfy_remote.fleet.settings import read_fleet

GATEWAY = """
gateway:
  url: https://head:8000
  endpoint: workshop
  worker_token_file: /etc/fleet.token
"""


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "fleet.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_the_least_that_a_file_says(tmp_path: Path) -> None:
    fleet = read_fleet(written(tmp_path, GATEWAY))
    assert (fleet.workers.min, fleet.workers.max, fleet.workers.gpus) == (1, 1, 1.0)
    assert fleet.namespace == "comfy-remote-workshop"


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ("workers: {max: 0}", "workers.max"),
        ("workers: {min: 3, max: 2}", "min is 3, and max only 2"),
        ("workers: {maximum: 2}", "unknown key"),
        ("workers: {idle: .nan}", "workers.idle"),
        ("workers: {engine: 'http://box:8188'}", "a fleet starts its engines"),
        ("workers: {environment: {HF_TOKEN: secret-value}}", "HF_TOKEN: a secret does not belong"),
        ("revision: [1]", "revision"),
        ("workers: !!python/object/apply:os.system [ls]", "is not YAML"),
        ("workers: {a: *b}", "is not YAML"),
    ],
)
def test_what_it_may_not_say(tmp_path: Path, more: str, said: str) -> None:
    with pytest.raises(ConfigurationError) as raised:
        read_fleet(written(tmp_path, GATEWAY + more))
    assert said in str(raised.value)
    assert "secret-value" not in str(raised.value)


@pytest.mark.parametrize("url", ["http://head:8000", "ftp://head", "head", "https://u:p@head"])
def test_a_gateway_whose_token_would_travel_in_the_clear_is_refused(
    tmp_path: Path, url: str
) -> None:
    with pytest.raises(ConfigurationError):
        read_fleet(written(tmp_path, GATEWAY.replace("https://head:8000", url)))


def test_only_what_a_worker_is_made_of_replaces_workers(tmp_path: Path) -> None:
    one = read_fleet(written(tmp_path, GATEWAY + "workers: {min: 1, max: 2}")).digest
    more = read_fleet(written(tmp_path, GATEWAY + "workers: {min: 2, max: 9, idle: 5}")).digest
    other = read_fleet(written(tmp_path, GATEWAY + "workers: {engine: sandbox}")).digest
    again = read_fleet(written(tmp_path, GATEWAY + "revision: packs of June")).digest
    assert one == more
    assert len({one, other, again}) == 3


def test_a_file_that_is_not_there_or_not_text(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="cannot be read"):
        read_fleet(tmp_path / "none.yaml")
    (tmp_path / "fleet.yaml").write_bytes(b"\x81\xff\x00" * 10)
    with pytest.raises(ConfigurationError):
        read_fleet(tmp_path / "fleet.yaml")
    (tmp_path / "fleet.yaml").write_text("[" * 100_000)
    with pytest.raises(ConfigurationError):
        read_fleet(tmp_path / "fleet.yaml")
