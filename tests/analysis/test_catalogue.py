from collections.abc import Mapping
from pathlib import Path

import pytest

from mtlrun.analysis.catalogue import Choice, Description, describe, list_command, read_groups
from mtlrun.analysis.source import ancestors, docstring
from mtlrun.errors import UserError

CAGRAD = """\
# CAGrad: conflict-averse gradient descent (Liu et al., NeurIPS 2021). Needs per-task gradients.
_target_: my_methods.cagrad.CAGrad
c: 0.4   # radius
"""
MODULE = '''\
"""Balancing methods."""
from mtlrun.weighting.base import GramianWeighting, LossWeighting
from mtlrun.weighting import base as contracts


class CAGrad(GramianWeighting):
    """Conflict-averse gradient descent (Liu et al., NeurIPS 2021)."""


class Mine(CAGrad):
    """A method of mine (Me, 2026). Fast.

    It is good.
    """


class Losses(LossWeighting):
    pass


class Drop(contracts.JacobianWeighting):
    pass


raise ImportError("this module must not be imported")
'''


def write(folder: Path, files: Mapping[str, str]) -> Path:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return folder


@pytest.fixture
def configs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of configs, and a module in the working directory that they name."""
    monkeypatch.chdir(tmp_path)
    # Found through the working directory, as a user's own module is.
    write(tmp_path, {"my_methods/__init__.py": "", "my_methods/cagrad.py": MODULE})
    return write(
        tmp_path / "configs",
        {
            "config.yaml": "defaults:\n  - schema\n  - _self_\n  - weighting: cagrad\n"
            "  - dataset: digits\n  - optional experiment: null\n  - override hydra/help: x\n",
            "hydra/help/x.yaml": "a: 1\n",
            "weighting/cagrad.yaml": CAGRAD,
            "weighting/mine.yaml": "_target_: my_methods.cagrad.Mine\n",
            "weighting/losses.yaml": "# Losses: a sum. Needs losses only.\n"
            "_target_: my_methods.cagrad.Losses\n",
            "weighting/drop.yaml": "# Drop: by sign.\n_target_: my_methods.cagrad.Drop\n",
            "optimizer/adam.yaml": "# Adam: adaptive moments (Kingma and Ba, ICLR 2015).\n"
            "_target_: torch.optim.Adam\n",
            "dataset/digits.yaml": "# @package _global_\n# Digits: real digits. Needs nothing.\n"
            "dataset:\n  _target_: my_methods.nowhere.Digits\n",
            "scheduler/none.yaml": "_target_: null\n",
        },
    )


def described(configs: Path, group: str, name: str) -> Description:
    return describe(Choice(name, configs / group / f"{name}.yaml"), group)


def test_groups_come_in_the_order_of_the_defaults_list(configs: Path) -> None:
    groups = read_groups([configs])
    assert list(groups) == ["weighting", "dataset", "optimizer", "scheduler"]
    assert [choice.name for choice in groups["weighting"]] == ["cagrad", "drop", "losses", "mine"]


def test_a_comment_gives_description_paper_and_needs(configs: Path) -> None:
    assert described(configs, "weighting", "cagrad") == Description(
        text="CAGrad: conflict-averse gradient descent",
        paper="Liu et al., NeurIPS 2021",
        needs="Gramian (per-task gradients)",
    )


def test_needs_come_from_the_class_that_is_extended(configs: Path) -> None:
    needs = {n: described(configs, "weighting", n).needs for n in ("drop", "losses", "mine")}
    assert needs == {
        "drop": "Jacobian (per-task gradients)",
        "losses": "losses",
        "mine": "Gramian (per-task gradients)",
    }


def test_without_a_comment_the_docstring_speaks(configs: Path) -> None:
    description = described(configs, "weighting", "mine")
    assert description.text == "A method of mine"
    assert description.paper == "Me, 2026"
    assert description.remark == "Fast"


def test_a_class_from_elsewhere_shows_its_comment(configs: Path) -> None:
    assert described(configs, "optimizer", "adam") == Description(
        text="Adam: adaptive moments", paper="Kingma and Ba, ICLR 2015"
    )


def test_the_package_directive_is_no_description(configs: Path) -> None:
    assert described(configs, "dataset", "digits") == Description(
        text="Digits: real digits", needs="nothing"
    )


def test_a_choice_that_says_nothing_is_listed(configs: Path) -> None:
    assert described(configs, "scheduler", "none") == Description(text="")


def test_all_groups_are_printed_a_line_each(
    configs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert list_command([], configs) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "weighting"
    assert "  cagrad  CAGrad: conflict-averse gradient descent" in lines
    assert "  adam    Adam: adaptive moments" in lines
    assert not any("hydra" in line for line in lines)


def test_one_group_is_printed_with_paper_and_needs(
    configs: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "140")
    assert list_command(["weighting"], configs) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["weighting", "description", "paper", "needs", "remark"]
    assert "Liu et al., NeurIPS 2021" in lines[1]
    assert "Gramian (per-task gradients)" in lines[1]


def test_choices_of_further_folders_are_listed(
    configs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = write(
        tmp_path / "own",
        {
            "weighting/ours.yaml": "# Ours: [new] method.\n",
            "weighting/cagrad.yaml": "# CAGrad: hidden by the package's.\n",
            "sweep/seeds.yaml": "# Seeds: three.\n",
        },
    )
    assert list_command(["--config-dir", str(own)], configs) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "  ours    Ours: [new] method" in lines
    assert "  seeds   Seeds: three" in lines
    assert not any("hidden" in line for line in lines)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["wieghting"], "There is no group wieghting. Did you mean weighting?"),
        (["zzz"], "There is no group zzz. The groups are weighting, dataset,"),
        (["adam"], "adam is no group but a choice, see `mtlrun list optimizer`"),
        (["--config-dir", "nowhere"], "--config-dir nowhere is not a folder"),
    ],
)
def test_what_is_not_there_is_an_error(configs: Path, arguments: list[str], message: str) -> None:
    with pytest.raises(UserError) as error:
        list_command(arguments, configs)
    assert message in str(error.value)


def test_a_damaged_config_is_listed_all_the_same(configs: Path) -> None:
    write(configs, {"weighting/broken.yaml": "# Broken: yaml.\n_target_: [\n"})
    assert described(configs, "weighting", "broken").text == "Broken: yaml"


def test_the_contracts_are_found_without_importing_them() -> None:
    assert "Weighting" in list(ancestors("mtlrun.weighting.base.GramianWeighting"))
    assert docstring("mtlrun.weighting.base.LossWeighting").startswith("Sees losses only")
    assert list(ancestors("nowhere.at.all.Class")) == ["Class"]


def test_classes_are_followed_through_relative_imports_and_reexports(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write(
        tmp_path,
        {
            "parts_of_mine/__init__.py": "from .deep import Deep as Renamed\n",
            "parts_of_mine/deep.py": "from . import shallow\nclass Deep(shallow.Base[int]): ...\n",
            "parts_of_mine/shallow.py": "class Base(Base): ...\n",
        },
    )
    assert list(ancestors("parts_of_mine.Renamed")) == ["Renamed", "Base"]
