"""A service's key is found by its host, and by no other."""

from __future__ import annotations

import pytest
from yarl import URL

from comfy_remote.calls.address import service_headers, token_variable
from comfy_remote.config.settings import Configuration
from comfy_remote.config.target_settings import TargetSettings
from comfy_remote.errors import ConfigurationError

NONE = Configuration(None, {})


def _bearer(url: str, configuration: Configuration, **environment: str) -> str | None:
    found = service_headers(URL(url), configuration, environment).get("Authorization")
    return None if found is None else found.get_secret_value()


def test_the_variable_is_named_after_the_host() -> None:
    assert token_variable("api.example.com") == "COMFY_REMOTE_TOKEN_API_EXAMPLE_COM"
    assert token_variable("127.0.0.1") == "COMFY_REMOTE_TOKEN_127_0_0_1"
    assert token_variable("::1") is None
    assert token_variable("my_host") is None
    token = {"COMFY_REMOTE_TOKEN_API_EXAMPLE_COM": "t" * 20}
    assert _bearer("https://api.example.com/x", NONE, **token) == "Bearer " + "t" * 20


@pytest.mark.parametrize("url", ["https://api-example.com", "https://api.example.com.evil.org"])
def test_a_host_that_looks_alike_gets_nothing(url: str) -> None:
    assert _bearer(url, NONE, COMFY_REMOTE_TOKEN_API_EXAMPLE_COM="t" * 20) is None


def test_the_login_of_a_target_counts_at_its_origin() -> None:
    known = Configuration(None, {"mine": TargetSettings("https://a.example:8443", key_env="MINE")})
    assert _bearer("https://a.example:8443/call", known, MINE="m" * 20) == "Bearer " + "m" * 20
    assert _bearer("https://a.example/call", known, MINE="m" * 20) is None
    with pytest.raises(ConfigurationError, match="MINE"):
        _bearer("https://a.example:8443/call", known)
