"""What the page shows is in its tables of words, in every language."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from comfy_remote.advice import Hint
from comfy_remote.node_pack.advice import WORDS

WEB = Path(__file__).resolve().parents[2] / "comfy_remote" / "node_pack" / "web"
SCRIPTS = sorted(WEB.glob("*.js"))
LANGUAGES = ("en", "ja", "zh")

COMMENT = re.compile(r"/\*.*?\*/|(?<![:'])//[^\n]*", re.DOTALL)
LITERAL = re.compile(r"'((?:[^'\\\n]|\\.)*)'|\"((?:[^\"\\\n]|\\.)*)\"|`((?:[^`\\]|\\.)*)`")
NOT_SHOWN = re.compile(
    r"comfy-remote|COMFY_REMOTE_KEY_|[A-Z_]+=…|(?:DELETE|PUT)$|pi pi-|ComfyRemote\.|Comfy\.Locale"
    r"|Comfy-Remote-Page|Content-Type|Workspace\."
    r"|Comfy Remote| trust --list$"  # its name, a line in the console, a command
    r"|(?:RemoteError|Extensions|ComfyRemoteNode|Target|Cache|Panel|Node|Group|POST|B|MB|GB)$"
    r"|by (?:run|hour)$"  # how a target costs money, as the server calls it
    r"|a few an hour$"  # how an endpoint is used, likewise
)


def words(language: str) -> dict[str, str]:
    """A table, whose text is JSON but for the line around it."""
    text = (WEB / "languages" / f"{language}.js").read_text(encoding="utf-8")
    table: dict[str, str] = json.loads(text[text.index("= {") + 2 :])
    return table


def placeholders(text: str) -> set[str]:
    return set(re.findall(r"\{(\w+)\}", text))


def literals(script: Path) -> list[str]:
    """The texts in a script."""
    code = COMMENT.sub("", script.read_text(encoding="utf-8"))
    found = ["".join(groups) for groups in LITERAL.findall(code)]
    return [re.sub(r"\$\{[^}]*\}", "", text) for text in found]


@pytest.mark.parametrize("language", LANGUAGES[1:])
def test_each_language_has_the_same_words_and_placeholders(language: str) -> None:
    english, other = words("en"), words(language)
    assert list(other) == list(english)
    for key, text in other.items():
        assert placeholders(text) == placeholders(english[key]), key
        assert text.strip(), key


def test_advice_is_translated_by_codes_that_exist() -> None:
    text = (WEB / "languages" / "advice.js").read_text(encoding="utf-8")
    advice: dict[str, dict[str, str]] = json.loads(text[text.index("= {") + 2 :])
    assert set(advice) == set(LANGUAGES[1:])
    assert advice["ja"].keys() == advice["zh"].keys()
    hints = {hint.code: hint for hint in Hint}
    for code, words in [*advice["ja"].items(), *advice["zh"].items()]:
        own = WORDS.get(hints[code], hints[code].value)
        assert placeholders(words) <= placeholders(own) | hints[code].facts, code


def test_every_word_is_used() -> None:
    code = "\n".join(script.read_text(encoding="utf-8") for script in SCRIPTS)
    code = re.sub(r"`(un)?mark\$\{.*?\}(On)?`", r"'\1markNode\2' '\1markGroup\2'", code)
    unused = [key for key in words("en") if f"'{key}'" not in code]
    assert unused == []


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.name)
def test_no_script_has_words_of_its_own(script: Path) -> None:
    shown = [
        text
        for text in literals(script)
        if re.search(r"[A-Za-z]", text)
        and re.search(r"[A-Za-z.,:] |^[A-Z]|…|\.$", text)
        and not NOT_SHOWN.match(text)
    ]
    assert shown == []


@pytest.mark.parametrize("language", LANGUAGES)
def test_commands_have_the_same_words_wherever_the_page_shows_them(language: str) -> None:
    """A page names the buttons over a selection by ``locales``, and its menus by the script."""
    path = WEB.parents[2] / "locales" / language / "commands.json"
    commands = json.loads(path.read_text(encoding="utf-8"))
    table = words(language)
    assert {key: entry["label"] for key, entry in commands.items()} == {
        "ComfyRemote_Toggle": table["commandToggle"],
        "ComfyRemote_MarkSelection": table["commandMark"],
        "ComfyRemote_MarkSelectionWhere": table["markNodeOn"],
        "ComfyRemote_ShowCut": table["showCut"],
        "ComfyRemote_Vary": table["commandVary"],
        "ComfyRemote_OpenPacked": table["commandOpenPacked"],
        "ComfyRemote_Bring": table["commandBring"],
    }
