import gzip
from pathlib import Path

import pytest
import torch

from mtlrun.data.fdu_mtl import DOMAINS, FduMtl
from mtlrun.errors import UserError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Eight training and four test reviews a domain; training files compressed."""
    for domain in DOMAINS:
        for part, rows in (("train", 8), ("test", 4)):
            lines = (f"{n % 2}\tit 's {domain} no\xa3{n} {part}\x85end\n" for n in range(rows))
            content = "".join(lines).encode("latin-1")
            if part == "train":
                (tmp_path / f"{domain}.task.train.gz").write_bytes(gzip.compress(content))
            else:
                (tmp_path / f"{domain}.task.test").write_bytes(content)
    return tmp_path


def test_a_stream_and_a_task_a_domain(folder: Path) -> None:
    pairs = FduMtl(str(folder), validation=0.25, min_count=1)
    assert set(pairs.input_kind.values()) == {"bags"}
    dataset = FduMtl(str(folder), validation=0.25, min_count=1, ngrams=1)
    assert set(dataset.input_kind.values()) == {"tokens"}
    assert list(dataset.streams) == list(DOMAINS)
    assert dataset.streams["MR"] == ("MR",)
    for domain in DOMAINS:
        sizes = {part: len(sources[domain]) for part, sources in dataset.splits.items()}
        assert sizes == {"train": 6, "val": 2, "test": 4}
        assert dataset.facts[domain]["classes"] == 2
    inputs, targets = dataset.splits["test"]["dvd"].rows(torch.arange(4))
    assert targets["dvd"].tolist() == [0, 1, 0, 1]
    assert inputs.shape == (4, 6)  # a NEL is white space
    # it, 's, train, end; 16 domains; the 6 of no£0 to no£7 that are trained on
    assert dataset.input_facts["MR"] == {"vocabulary": 2 + 4 + 16 + 6}
    assert (inputs == 1).sum(1).tolist() == [1, 1, 1, 1]  # test
    dataset.select(["dvd"])
    assert list(dataset.splits["train"]) == ["dvd"]


def test_without_validation_all_training_rows_are_trained_on(folder: Path) -> None:
    dataset = FduMtl(str(folder), carve_validation=False)
    assert set(dataset.splits) == {"train", "test"}
    assert len(dataset.splits["train"]["books"]) == 8


def test_bad_files_are_named(folder: Path) -> None:
    path = folder / "dvd.task.test"
    path.write_text("1\tfine\n2\tfine\n")
    with pytest.raises(UserError, match=r"dvd.task.test, line 2: expected 0 or 1, a tab, .*'2"):
        FduMtl(str(folder))
    path.write_text("")
    with pytest.raises(UserError, match="has 0 reviews"):
        FduMtl(str(folder))
    path.unlink()
    with pytest.raises(UserError, match=r"lacks dvd.task.test\. Get fdu-mtl-dataset .*MTLRUN_DATA"):
        FduMtl(str(folder))
    with pytest.raises(UserError, match="does not exist"):
        FduMtl(str(folder / "nowhere"))


@pytest.mark.data
def test_the_real_files(shared_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    dataset = FduMtl(str(shared_data / "fdu_mtl"), min_count=2, ngrams=1)
    rows = {part: [len(s) for s in sources.values()] for part, sources in dataset.splits.items()}
    assert sum(rows["train"]) + sum(rows["val"]) == 25380
    assert rows["test"] == [400] * 16
    assert len(dataset.splits["val"]["books"]) == 200
    train = dataset.splits["train"]["baby"]
    _, targets = train.rows(torch.arange(len(train)))
    assert set(targets["baby"].tolist()) == {0, 1}
    assert 0.5 < targets["baby"].double().mean() < 0.56  # 800 of 1500
    assert 30_000 < dataset.input_facts["MR"]["vocabulary"] < 45_000
