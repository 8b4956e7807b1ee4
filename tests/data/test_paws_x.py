from pathlib import Path

import pytest
import torch

from mtlrun.data.paws_x import LANGUAGES, PawsX
from mtlrun.errors import UserError

HEADER = "id\tsentence1\tsentence2\tlabel\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Four training pairs a language, of which one has no translation; two and one others."""
    for language in LANGUAGES:
        place = tmp_path / "x-final" / language
        place.mkdir(parents=True)
        train = "train.tsv" if language == "en" else "translated_train.tsv"
        rows = ['1\tA "cat\tThe cat\'s ."\t0', "2\tA dog\tA dog\t1", "3\t\t\t0", "4\tA\tA cat\t1"]
        if language == "ja":
            rows[1] = "2\t猫が好き\t猫\t1"
        (place / train).write_text(HEADER + "".join(f"{row}\n" for row in rows))
        (place / "dev_2k.tsv").write_text(f"{HEADER}1\tA\tNS\t0\n2\tA\tA cat\t1\n")
        (place / "test_2k.tsv").write_text(f"{HEADER}1\tcat A\tdog\t1\n")
    return tmp_path


def test_pairs_are_joined_and_failed_translations_left_out(folder: Path) -> None:
    dataset = PawsX(str(folder), min_count=1)
    assert list(dataset.streams) == list(LANGUAGES)
    for language in LANGUAGES:
        sizes = {part: len(sources[language]) for part, sources in dataset.splits.items()}
        assert sizes == {"train": 3, "val": 1, "test": 1}
    assert dataset.remarks[1] == "14 pairs without a translation are left out"
    # [SEP] 21 times, a 6 * 4 + 2 + 1 (ja); quotes are tokens
    inputs, targets = dataset.splits["train"]["en"].rows(torch.arange(3))
    assert targets["en"].tolist() == [0, 1, 1]
    a, separator, cat = inputs[2, [0, 1, 3]].tolist()
    assert inputs[2].tolist() == [a, separator, a, cat, 0, 0, 0, 0]
    quote, the = inputs[0, 1].item(), inputs[0, 4].item()
    assert inputs[0, [0, 1, 2, 3, 4]].tolist() == [a, quote, cat, separator, the]
    assert inputs[0, 7] == quote
    japanese, _ = dataset.splits["train"]["ja"].rows(torch.tensor([1]))
    assert japanese.shape == (1, 6)
    assert japanese[0, 0] == japanese[0, 5]  # a character each, the same in both sentences
    assert japanese[0, 4] == separator


def test_train_rows_and_no_validation(folder: Path) -> None:
    dataset = PawsX(str(folder / "x-final"), train_rows=2, carve_validation=False)
    assert set(dataset.splits) == {"train", "test"}
    assert len(dataset.splits["train"]["zh"]) == 2
    path = folder / "x-final" / "zh" / "test_2k.tsv"
    path.write_text(path.read_text() + "2\tA\tA\t1\n" * 2)
    dataset = PawsX(str(folder), train_rows=2)
    assert [len(dataset.splits[part]["zh"]) for part in ("train", "test")] == [2, 3]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("id\tsentence1\tsentence2\n", "line 1: expected the columns id, sentence1"),
        (f"{HEADER}1\tA\tB\n", "line 2 has 3 columns, and the first line 4"),
        (f"{HEADER}1\tA\tB\t2\n", "line 2, column label: expected 0 or 1, not '2'"),
        (f"{HEADER}1\tA\t\t1\n", "has no pairs"),
        ("", "line 1: expected the columns"),
    ],
)
def test_bad_files_are_named(folder: Path, content: str, message: str) -> None:
    path = folder / "x-final" / "ko" / "test_2k.tsv"
    path.write_text(content)
    with pytest.raises(UserError, match=f"{path}.*{message}"):
        PawsX(str(folder))


def test_a_missing_file_is_named(folder: Path) -> None:
    (folder / "x-final" / "en" / "train.tsv").unlink()
    with pytest.raises(UserError, match=r"lacks en/train.tsv\. Get x-final.tar.gz .*MTLRUN_DATA"):
        PawsX(str(folder))
    with pytest.raises(ValueError, match="train_rows=1"):
        PawsX(train_rows=1)
