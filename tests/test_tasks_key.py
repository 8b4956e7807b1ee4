"""The key ``tasks`` in all its forms: a list, a mapping, and keys of it on the command line."""

from collections.abc import Iterator
from copy import deepcopy
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from mtlrun import build
from mtlrun.analysis.settings import effective_settings
from mtlrun.config import Config, changed_settings, choices_of, method_name, register, typed
from mtlrun.errors import UserError
from mtlrun.overrides import clash, with_task_keys
from mtlrun.sweeping.jobs import axes, expand, key_of
from mtlrun.task_choice import TaskChoice, chosen_tasks, plain_tasks

CONFIGS = Path(__file__).resolve().parent.parent / "configs"


@pytest.fixture(scope="module", autouse=True)
def _hydra(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    own = tmp_path_factory.mktemp("own")
    (own / "experiment").mkdir()
    texts = {
        "mapped": "tasks: {of: [digit, ink], primary: [digit], anneal: 0.5}",
        "listed": "tasks: [digit, ink]",
    }
    for name, text in texts.items():
        (own / "experiment" / f"{name}.yaml").write_text(f"# @package _global_\n{text}\n")
    register()
    search = f"hydra.searchpath=[file://{own}]"
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        COMPOSED.clear()
        COMPOSED[""] = search
        yield


COMPOSED: dict[str, Any] = {}


def composed(*typed_on_shell: str) -> DictConfig:
    """What the app makes of a command line; each is composed once."""
    key = " ".join(["run", *typed_on_shell])
    if key not in COMPOSED:
        overrides = [COMPOSED[""], *with_task_keys(typed_on_shell)]
        COMPOSED[key] = compose("config", overrides=overrides, return_hydra_config=True)
    found: DictConfig = COMPOSED[key]
    return found


def config_of(*typed_on_shell: str) -> Config:
    whole = composed(*typed_on_shell)
    own = deepcopy(whole)
    with open_dict(own):
        del own["hydra"]
    return typed(own, choices_of(whole.hydra))


def named(*typed_on_shell: str) -> str:
    whole = composed(*typed_on_shell)
    groups, changed = changed_settings(whole, whole.hydra, lambda given: composed(*given))
    return method_name(choices_of(whole.hydra)["weighting"], groups, changed)


BOTH = {"of": ["digit", "ink"], "primary": ["digit"]}


@pytest.mark.parametrize(
    ("typed_on_shell", "tasks", "name"),
    [
        (("tasks.of=[digit,ink]",), ["digit", "ink"], "equal,tasks=[digit_ink]"),
        (
            ("tasks.primary=[digit]", "tasks=null"),
            {"primary": ["digit"]},
            "equal,tasks.primary=[digit]",
        ),
        (
            ("tasks.primary=[digit]", "tasks=[digit,ink]"),
            BOTH,
            "equal,tasks.of=[digit_ink],tasks.primary=[digit]",
        ),
        (
            ("tasks.anneal=0.5", "tasks={of:[digit,ink],primary:[digit]}"),
            {**BOTH, "anneal": 0.5},
            "equal,tasks.anneal=0.5,tasks.of=[digit_ink],tasks.primary=[digit]",
        ),
        (
            ("experiment=mapped", "tasks.anneal=null", "tasks.primary=[ink]"),
            {**BOTH, "primary": ["ink"]},
            "equal,experiment=mapped,tasks.anneal=null,tasks.primary=[ink]",
        ),
        (("experiment=listed", "tasks=[ink]"), ["ink"], "equal,experiment=listed,tasks=[ink]"),
    ],
)
def test_every_form_composes_and_has_a_readable_name(
    typed_on_shell: tuple[str, ...], tasks: Any, name: str
) -> None:
    config = config_of(*typed_on_shell)
    assert config.tasks == tasks
    assert named(*typed_on_shell) == name
    stored = OmegaConf.create(OmegaConf.to_yaml(OmegaConf.create(asdict(config))))
    again = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(Config), stored))
    assert isinstance(again, Config)
    assert again.tasks == tasks


@pytest.mark.parametrize(
    ("tasks", "said"),
    [
        ({"primray": ["digit"]}, "tasks.primray: there is no such setting. Did you mean primary?"),
        ("digit", r"tasks=digit: give a list, for example tasks=\[digit\]."),
        ({"primary": "digit"}, r"tasks.primary=digit: give a list"),
        ({"primary": ["digit"], "anneal": 0}, "tasks.anneal=0: use the share of the run"),
        ({"primary": ["digit"], "anneal": 1.5}, "above 0 and at most 1"),
        ({"primary": ["digit"], "anneal": True}, "tasks.anneal=True"),
        ({"anneal": 0.5}, "fades auxiliary tasks out, and this run has none"),
        ({"primary": ["digit", "ink", "parity"], "anneal": 1}, "this run has none"),
        ({"primary": ["digt"]}, "this dataset has no task digt. Did you mean digit?"),
        ({"primary": ["digit", "digit"]}, "tasks.primary names digit twice"),
        (
            {"of": ["ink"], "primary": ["digit"]},
            "tasks.primary names digit, and the run trains ink",
        ),
    ],
)
def test_what_makes_no_sense_is_refused_with_what_to_do(tasks: Any, said: str) -> None:
    config = config_of()
    changed = Config(**{**vars(config), "tasks": tasks})
    with pytest.raises(UserError, match=said):
        build.check_settings(changed)


def test_primary_tasks_in_the_runs_order_all_where_none_are_named() -> None:
    config = config_of()
    config.tasks = {"primary": ["ink", "digit"]}
    dataset, tasks = build.dataset_and_tasks(config)
    assert list(tasks) == ["digit", "parity", "ink"]
    assert build.primary_tasks(config, dataset) == ("digit", "ink")
    config.tasks = None
    assert build.primary_tasks(config, dataset) == ("digit", "parity", "ink")
    dataset.families = {"digit": ("parity", "digit")}  # one declared task that became two
    config.tasks = BOTH
    assert build.primary_tasks(config, dataset) == ("digit", "parity")


@pytest.mark.parametrize(
    ("typed_on_shell", "said"),
    [
        (("experiment=mapped", "tasks=[ink]"), "For the subset alone write tasks.of="),
        (("experiment=listed", "tasks.primary=[ink]"), r"Write it there as tasks: \{of:"),
    ],
)
def test_a_list_and_a_mapping_of_different_places(
    typed_on_shell: tuple[str, ...], said: str
) -> None:
    with pytest.raises((HydraException, OmegaConfBaseException, ValueError)) as raised:
        composed(*typed_on_shell)
    report = " ".join(f"{raised.value} {raised.value.__cause__ or ''}".split())
    with pytest.raises(AssertionError, match=said):
        raise AssertionError(clash(report))
    assert clash("Error merging override tasks=3 something else") is None


def test_values_of_a_sweep_are_rewritten_as_they_stand() -> None:
    given = ["-m", "tasks=[a],[a,b]", "seed=0,1", "tasks.primary=[a]", "heads.of.tasks.x=1"]
    assert with_task_keys(given) == [
        "-m",
        "++tasks.of=[a],[a,b]",
        "seed=0,1",
        "++tasks.primary=[a]",
        "heads.of.tasks.x=1",
    ]
    assert with_task_keys(["tasks=[a]", "~tasks.primary"]) == ["tasks=[a]", "~tasks.primary"]
    mapped = ["seed=1", "tasks.anneal=1", "--cfg", "tasks={primary:[a]},{primary:[b]}"]
    assert with_task_keys(mapped) == ["seed=1", mapped[3], "--cfg", "++tasks.anneal=1"]
    assert with_task_keys(with_task_keys(given)) == with_task_keys(given)
    assert key_of("++tasks.of=[a]") == key_of("tasks=[a]") == "tasks"  # one axis of a sweep


def test_a_sweeps_baseline_has_the_tasks_and_no_primary_ones() -> None:
    from hydra.core.override_parser.overrides_parser import OverridesParser

    shell = ["weighting=equal,mgda", *with_task_keys(["tasks=[a,b]", "tasks.primary=[a]"])]
    methods, *others = axes(OverridesParser.create().parse_overrides(shell))
    jobs = expand([methods], others, ["architecture=single_task"])
    assert [with_task_keys(job.overrides) for job in jobs] == [
        ["++tasks.of=[a,b]", "architecture=single_task"],
        ["++tasks.of=[a,b]", "++tasks.primary=[a]", "weighting=equal"],
        ["++tasks.of=[a,b]", "++tasks.primary=[a]", "weighting=mgda"],
    ]


def test_what_a_choice_says_and_the_shortest_way_to_say_it() -> None:
    assert chosen_tasks(["a"]) == TaskChoice(of=["a"])
    assert chosen_tasks({**BOTH, "anneal": 1}) == TaskChoice(["digit", "ink"], ["digit"], 1)
    assert plain_tasks({"of": ["a"], "primary": None}) == ["a"]
    assert plain_tasks({"of": None, "primary": ["a"]}) == {"primary": ["a"]}
    assert plain_tasks({"of": None}) is None


def test_comparisons_see_primary_tasks_and_annealing_and_not_the_subset() -> None:
    found = effective_settings("tasks:\n  of: [a, b]\n  primary: [a]\n  anneal: 0.5\nepochs: 3\n")
    assert found == {"tasks.primary": "[a]", "tasks.anneal": "0.5", "epochs": "3"}
    assert effective_settings("tasks: [a, b]\nepochs: 3\n") == {"epochs": "3"}
