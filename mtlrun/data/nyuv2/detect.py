"""Finding out in which layout NYUv2 is on the disk."""

from pathlib import Path

from mtlrun.data.nyuv2.image_folders import ImageFolders
from mtlrun.data.nyuv2.layouts import Layout
from mtlrun.data.nyuv2.mat_file import MatFile
from mtlrun.data.nyuv2.mtan_folders import MtanFolders
from mtlrun.data.originals import listed
from mtlrun.errors import UserError

MAT_NAME = "nyu_depth_v2_labeled.mat"

WHERE_FROM = (
    "It comes from the NYU Depth Dataset V2 page, "
    "https://cs.nyu.edu/~fergus/datasets/nyu_depth_v2.html. Put one of these there: "
    f"{MAT_NAME} from that page (2.8 GB); or MTAN's and LibMTL's folders "
    "{train,val}/{image,label,depth,normal}/N.npy; or image folders image/NNNN.jpg, "
    "depth/NNNN.png, label40/NNNN.png with the lists train.txt and test.txt. The first run "
    "prepares it; to prepare it from elsewhere: mtlrun data prepare nyuv2 --from PATH."
)


def detect(path: Path) -> Layout:
    """The layout at ``path``, opened.

    Args:
        path: the folder, or the .mat file itself.

    Raises:
        UserError: nothing is there, or nothing that is known, or part of it is missing.
    """
    if path.is_file():
        if path.suffix != ".mat":
            raise UserError(f"{path} is not NYUv2: a file must be the official {MAT_NAME}.")
        return MatFile(path)
    if not path.is_dir():
        raise UserError(f"NYUv2 is not at {path.absolute()} (dataset.root). {WHERE_FROM}")
    names = {entry.name for entry in path.iterdir()}
    if MAT_NAME in names:
        return MatFile(path / MAT_NAME)
    if names & {"train", "val"}:
        return MtanFolders(path)
    if names & {"image", "depth", "label40", "train.txt", "test.txt"}:
        return ImageFolders(path)
    raise UserError(
        f"{path.absolute()} (dataset.root) {listed(path)}: NYUv2 is not there. {WHERE_FROM}"
    )
