"""Text as people and shells write it."""

from __future__ import annotations

from pathlib import Path

import pytest

from comfy_remote.text_file import NotText, lines_of, text_of

TEXT = 'default = "Büro"\nx = "日本"\n'


@pytest.mark.parametrize(
    "encoding",
    ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"],
)
@pytest.mark.parametrize("code_page", [None, "cp1252"])
def test_unicode_is_recognized(encoding: str, code_page: str | None) -> None:
    assert text_of(TEXT.encode(encoding), code_page=code_page) == TEXT
    with_returns = TEXT.replace("\n", "\r\n").encode(encoding)
    assert text_of(with_returns, code_page=code_page) == TEXT


def test_windows_code_page_is_read_on_windows() -> None:
    content = 'name = "Büro"'.encode("cp1252")
    assert text_of(content, code_page="cp1252") == 'name = "Büro"'
    with pytest.raises(NotText, match="not UTF-8"):
        text_of(content, code_page=None)


@pytest.mark.parametrize(
    "content",
    [b"\xff\xfea\0b", b"a\0\xff\0\0\xd8", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\xff"],
    ids=["cut off", "half a pair", "a picture"],
)
@pytest.mark.parametrize("code_page", [None, "cp1252"])
def test_what_is_no_text_is_no_text_in_any_code_page(content: bytes, code_page: str | None) -> None:
    with pytest.raises(NotText):
        text_of(content, code_page=code_page)


def test_nothing_is_an_empty_text() -> None:
    assert text_of(b"") == text_of(b"\xef\xbb\xbf") == text_of(b"\xff\xfe") == ""


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-be", "utf-32"])
def test_lines_are_read_one_at_a_time(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(TEXT.replace("\n", "\r\n").encode(encoding))
    assert list(lines_of(path, 100)) == TEXT.splitlines(keepends=True)
    assert next(lines_of(path, 5)) == TEXT[:5]


def test_lines_of_no_text_or_in_a_code_page(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes("Büro\n".encode("cp1252"))
    assert list(lines_of(path, 100, code_page="cp1252")) == ["Büro\n"]
    with pytest.raises(NotText, match="not UTF-8"):
        next(lines_of(path, 100, code_page=None))
    path.write_bytes(b"a" * 2_000_000 + b"\xff")  # not in the first part that is read
    with pytest.raises(NotText):
        next(lines_of(path, 100, code_page=None))
