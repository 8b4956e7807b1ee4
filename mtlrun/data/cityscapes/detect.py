"""Finding out in which layout Cityscapes is on the disk."""

from pathlib import Path

from mtlrun.data.cityscapes.layouts import Layout
from mtlrun.data.cityscapes.mtan_folders import MtanFolders
from mtlrun.data.cityscapes.official_folders import KINDS, OfficialFolders
from mtlrun.data.originals import listed
from mtlrun.errors import UserError

WHERE_FROM = (
    "It comes from https://www.cityscapes-dataset.com (after registration). Put one of these "
    "there: the folders leftImg8bit, gtFine and disparity of leftImg8bit_trainvaltest.zip, "
    "gtFine_trainvaltest.zip and disparity_trainvaltest.zip, and camera of camera_trainvaltest.zip "
    "where depth in metres is wanted; or MTAN's folders {train,val}/{image,label_7,depth}/N.npy "
    "(https://github.com/lorenmt/mtan). Name another folder by dataset.root=FOLDER, or its parent "
    "by the environment variable MTLRUN_DATA. The first run prepares it; to prepare it from "
    "elsewhere: mtlrun data prepare cityscapes --from PATH."
)


def detect(path: Path) -> Layout:
    """The layout at ``path``, opened.

    Args:
        path: the folder.

    Raises:
        UserError: nothing is there, or nothing that is known, or part of it is missing.
    """
    if not path.is_dir():
        raise UserError(f"Cityscapes is not at {path.absolute()} (dataset.root). {WHERE_FROM}")
    names = {entry.name for entry in path.iterdir()}
    if names & set(KINDS):
        return OfficialFolders(path)
    if names & {"train", "val"}:
        return MtanFolders(path)
    raise UserError(
        f"{path.absolute()} (dataset.root) {listed(path)}: Cityscapes is not there. {WHERE_FROM}"
    )
