"""Converting CelebA into memory-mapped arrays, once."""

from collections.abc import Mapping
from pathlib import Path

from mtlrun.data.celeba.files import ATTRIBUTES, SPLITS, TITLE, CelebAFiles
from mtlrun.data.prepared import ArraySpec
from mtlrun.data.preparing import Array, Preparation, Size

OFFICIAL = {"train": 162770, "val": 19867, "test": 19962}


class CelebAPreparation(Preparation[CelebAFiles]):
    """Rows are the training faces, then those of validation, then of test. Per row:

    - ``image`` uint8 [3, H, W], the whole aligned image (178 wide, 218 high) scaled bilinearly
      with antialiasing, its proportions not kept;
    - ``attributes`` uint8 [40], 1 where the face has the attribute.
    """

    dataset = "celeba"
    title = TITLE
    version = 1

    def detect(self, path: Path) -> CelebAFiles:
        """See :meth:`Preparation.detect`."""
        return CelebAFiles(path)

    def arrays(self, layout: CelebAFiles, size: Size) -> Mapping[str, ArraySpec]:
        """See :meth:`Preparation.arrays`."""
        del layout
        return {
            "image": ArraySpec((3, *size), "uint8"),
            "attributes": ArraySpec((len(ATTRIBUTES),), "uint8"),
        }

    def row(self, layout: CelebAFiles, part: str, key: int, size: Size) -> Mapping[str, Array]:
        """See :meth:`Preparation.row`."""
        del part
        return {"image": layout.image(key, size), "attributes": layout.faces.attributes[key]}

    def remark(self, layout: CelebAFiles) -> str | None:
        """That these are not all faces, where they are not."""
        counts = layout.faces.counts
        if counts == OFFICIAL:
            return None
        return (
            f"Note: {layout.path} has {', '.join(f'{counts[split]} {split}' for split in SPLITS)} "
            f"images; CelebA has {', '.join(f'{OFFICIAL[split]} {split}' for split in SPLITS)}."
        )


CELEBA = CelebAPreparation()
