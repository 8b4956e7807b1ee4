"""Files that are written whole or not at all."""

from pathlib import Path

import pytest

from mtlrun.durable import replace_file


def test_a_file_of_a_like_name_stays(tmp_path: Path) -> None:
    (tmp_path / "answers.tmp").write_text("of the user's own")
    replace_file(tmp_path / "answers.csv", b"a,b\n", b"1,2\n")
    assert (tmp_path / "answers.csv").read_bytes() == b"a,b\n1,2\n"
    assert {path.name for path in tmp_path.iterdir()} == {"answers.csv", "answers.tmp"}


def test_what_fails_leaves_the_file_before(tmp_path: Path) -> None:
    (tmp_path / "answers.csv").write_text("before")
    with pytest.raises(TypeError):
        replace_file(tmp_path / "answers.csv", b"half", None)  # type: ignore[arg-type]
    assert [path.read_text() for path in tmp_path.iterdir()] == ["before"]
