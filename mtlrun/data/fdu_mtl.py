"""FDU-MTL: reviews of sixteen domains, each a stream and a task of its own."""

from pathlib import Path

import torch
from torch import Tensor

from mtlrun.data.base import carved, check_share
from mtlrun.data.encoded_texts import TextSettings
from mtlrun.data.files import find_root, plain_or_gzip, read_lines
from mtlrun.data.text import spaced
from mtlrun.data.text_dataset import TextDataset, TextStream
from mtlrun.errors import UserError

DOMAINS = (
    "books",
    "electronics",
    "dvd",
    "kitchen_housewares",
    "apparel",
    "camera_photo",
    "health_personal_care",
    "music",
    "toys_games",
    "video",
    "baby",
    "magazines",
    "software",
    "sports_outdoors",
    "imdb",
    "MR",
)
PARTS = ("train", "test")


class FduMtl(TextDataset):
    """Reviews of sixteen domains, positive or negative (Liu, Qiu & Huang, ACL 2017, section 5.1).

    Fourteen are of Amazon's products (Blitzer et al., ACL 2007), one of IMDB (Maas et al., ACL
    2011) and one is the sentence polarity data (``MR``; Pang & Lee, ACL 2005). Each domain has 1500
    to 1600 training and 400 test reviews, is a stream, and has a task of its name with the two
    classes negative and positive: the literature's networks end in a softmax.

    The texts are tokenised already, and are split at their spaces. The vocabulary is made from the
    training rows of all domains, whichever of them the run trains on, so that training one alone
    and together with others is the same network.

    Args:
        root: folder with ``<domain>.task.train`` and ``<domain>.task.test``, compressed (``.gz``)
            or not; None is ``$MTLRUN_DATA/fdu_mtl``, else ``data/fdu_mtl``.
        validation: share of each domain's training rows to carve out for validation; the paper
            takes 200 of 1600.
        seed: of that choice. It is not the run's, so that all runs see the same rows.
        tokenizer: see :class:`~mtlrun.data.encoded_texts.TextSettings`; likewise ``min_count``,
            ``max_words``, ``max_length`` and ``ngrams``. A pretrained one reads the text as it is.
        carve_validation: whether to carve at all.

    Raises:
        UserError: a file is missing or damaged.
    """

    def __init__(
        self,
        root: str | None = None,
        validation: float = 0.125,
        seed: int = 0,
        tokenizer: str = "words",
        min_count: int = 4,
        max_words: int | None = None,
        max_length: int | None = 300,
        ngrams: int = 2,
        *,
        carve_validation: bool = True,
    ) -> None:
        check_share("validation", validation)
        settings = TextSettings(tokenizer, min_count, max_words, max_length, ngrams)
        folder = find_root("fdu_mtl", root)
        streams = {}
        for domain in DOMAINS:
            (train_texts, train), (test_texts, test) = (_read(folder, domain, p) for p in PARTS)
            testing = torch.arange(len(train), len(train) + len(test))
            splits = {
                "test": testing,
                **carved(torch.arange(len(train)), validation, seed, carve_validation),
            }
            targets = {domain: torch.cat([train, test])}
            streams[domain] = TextStream([*train_texts, *test_texts], targets, splits)
        super().__init__(streams, settings, spaced)
        names = ["negative", "positive"]
        self.facts = {domain: {"classes": 2, "class_names": names} for domain in DOMAINS}


def _read(folder: Path, domain: str, part: str) -> tuple[list[str], Tensor]:
    """Texts, and the class of each: 0 negative, 1 positive, int64."""
    path = plain_or_gzip(folder, f"{domain}.task.{part}")
    if path is None:
        raise UserError(_missing(folder))
    texts, labels = [], []
    for number, line in enumerate(read_lines(path, "latin-1"), 1):
        label, tab, text = line.partition("\t")
        if not tab or label not in ("0", "1"):
            raise UserError(
                f"{path}, line {number}: expected 0 or 1, a tab, and a text, and found "
                f"{line[:40]!r} at its start."
            )
        texts.append(text)
        labels.append(int(label))
    if len(texts) < 2:
        raise UserError(f"{path} has {len(texts)} reviews. Copy or download it again.")
    return texts, torch.tensor(labels)


def _missing(folder: Path) -> str:
    names = [f"{domain}.task.{part}" for domain in DOMAINS for part in PARTS]
    absent = [name for name in names if plain_or_gzip(folder, name) is None]
    some = ", ".join(absent[:4]) + (f" and {len(absent) - 4} more" if len(absent) > 4 else "")
    state = "does not exist" if not folder.is_dir() else f"lacks {some}"
    return (
        f"FDU-MTL is read from two files a domain, and the folder {folder} {state}. Get "
        "fdu-mtl-dataset from pfliu.com/paper/adv-mtl.html, or the folder data/fdu-mtl of "
        "github.com/ccsasuke/man, and put books.task.train, books.task.test and so on for all "
        f"{len(DOMAINS)} domains there, compressed (.gz) or not; or name the folder that has them "
        "by dataset.root=FOLDER, or its parent by the environment variable MTLRUN_DATA (which then "
        "needs a folder fdu_mtl). They are read as they are: nothing has to be prepared."
    )
