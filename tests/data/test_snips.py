from pathlib import Path

import pytest
import torch

from mtlrun.data.snips import Snips
from mtlrun.errors import UserError

PARTS = {
    "train": [
        ("play some jazz ", "O O B-genre ", "PlayMusic"),
        ("rain  in new york", "O O B-city I-city", "GetWeather"),
        ("play jazz", "O B-genre", "PlayMusic"),
    ],
    "valid": [("play rain", "O B-track", "PlayMusic")],
    "test": [("book york", "O B-place", "Book"), ("rain", "O", "GetWeather")],
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for part, rows in PARTS.items():
        (tmp_path / part).mkdir()
        for name, lines in zip(
            ("seq.in", "seq.out", "label"), zip(*rows, strict=True), strict=True
        ):
            (tmp_path / part / name).write_text("".join(f"{line}\n" for line in lines))
    return tmp_path


def test_tags_and_intents_of_all_parts_have_a_class(folder: Path) -> None:
    dataset = Snips(str(folder), min_count=1)
    tags = ["O", "B-city", "B-genre", "B-place", "B-track", "I-city"]
    assert dataset.facts["slots"] == {"classes": 6, "class_names": tags}
    assert dataset.facts["intent"]["class_names"] == ["Book", "GetWeather", "PlayMusic"]
    inputs, targets = dataset.splits["test"]["snips"].rows(torch.arange(2))
    assert targets["slots"].tolist() == [[0, 3], [0, -1]]
    assert targets["intent"].tolist() == [0, 1]
    # jazz and play twice, then the others by name: in is 4, new 5, rain 6, some 7, york 8
    assert inputs.tolist() == [[1, 8], [6, 0]]
    inputs, targets = dataset.splits["train"]["snips"].rows(torch.tensor([1, 2]))
    assert inputs.tolist() == [[6, 4, 5, 8], [3, 2, 0, 0]]
    assert targets["slots"].tolist() == [[0, 0, 1, 5], [0, 2, -1, -1]]
    assert dataset.input_facts == {"snips": {"vocabulary": 9}}
    assert dataset.input_shape == {"snips": (4,)}


def test_the_validation_rows_are_official_and_never_trained_on(folder: Path) -> None:
    for carve in (True, False):
        splits = Snips(str(folder), carve_validation=carve).splits
        sizes = {part: len(sources["snips"]) for part, sources in splits.items()}
        assert sizes == {"train": 3, "test": 2, **({"val": 1} if carve else {})}


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("train/seq.out", "O O O\nO O O O\n", "seq.in has 3 lines and .*seq.out 2"),
        ("test/label", "Book\n\n", "label, line 2 is empty"),
        ("test/seq.out", "O\nO\n", "seq.in, line 1 has 2 words, and .*seq.out 1 tags"),
        ("test/seq.in", "book york\n \n", "line 2 has 0 words, and .*seq.out 1 tags"),
        ("test/seq.out", "O X-place\nO\n", "seq.out, line 1, word 2: .* found 'X-place'"),
    ],
)
def test_bad_files_are_named(folder: Path, file: str, content: str, message: str) -> None:
    (folder / file).write_text(content)
    with pytest.raises(UserError, match=message):
        Snips(str(folder))


def test_a_missing_file_is_named(folder: Path) -> None:
    (folder / "valid" / "label").unlink()
    with pytest.raises(UserError, match=r"lacks valid/label\. Get .*dataset.root=FOLDER"):
        Snips(str(folder))


@pytest.mark.data
def test_the_real_files(shared_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    dataset = Snips(str(shared_data / "snips"))
    sizes = {part: len(sources["snips"]) for part, sources in dataset.splits.items()}
    assert sizes == {"train": 13084, "val": 700, "test": 700}
    assert dataset.facts["intent"]["classes"] == 7
    assert dataset.facts["slots"]["classes"] == 72
    assert len({name[2:] for name in dataset.facts["slots"]["class_names"]} - {""}) == 39
    assert dataset.splits["train"]["snips"].lengths.sum() == 117_700
