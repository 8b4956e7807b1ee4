import gzip
from pathlib import Path

import pytest

from mtlrun.data.files import read_lines, user_cache
from mtlrun.errors import UserError


@pytest.mark.parametrize(
    ("content", "lines"),
    [
        (b"", []),
        (b"a\n\nb\n", ["a", "", "b"]),
        (b"a\nb", ["a", "b"]),
        (b"\xef\xbb\xbfa\r\nb\r\n", ["a", "b"]),
        ("a\x85b\u2028c\n".encode(), ["a\x85b\u2028c"]),
    ],
)
def test_lines_end_with_a_line_feed_only(tmp_path: Path, content: bytes, lines: list[str]) -> None:
    plain, compressed = tmp_path / "plain", tmp_path / "packed.gz"
    plain.write_bytes(content)
    compressed.write_bytes(gzip.compress(content))
    assert read_lines(plain) == read_lines(compressed) == lines


def test_a_wrong_encoding_is_named_with_its_place(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"a\nb\xe9\n")
    with pytest.raises(UserError, match=r"is not utf-8 in line 2, byte 2 \(0xe9\)"):
        read_lines(path)
    assert read_lines(path, "latin-1") == ["a", "bé"]


def test_the_cache_is_where_the_user_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert user_cache() == Path("/somewhere/mtlrun")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert user_cache() == Path.home() / ".cache" / "mtlrun"
