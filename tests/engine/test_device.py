import os

import pytest
import torch

from mtlrun.engine import device as module
from mtlrun.engine.device import SMALL_STEP, cpu_threads, device_of, threads_of
from mtlrun.errors import UserError


def test_devices_by_name() -> None:
    assert device_of("cpu") == torch.device("cpu")
    automatic = "cuda" if torch.cuda.is_available() else "cpu"
    assert device_of("auto").type == automatic


@pytest.mark.parametrize("name", ["gpu", "cuda:x", "", "mps", "meta", "0"])
def test_unknown_devices_are_refused(name: str) -> None:
    with pytest.raises(UserError, match=rf"engine\.device={name}: use auto, cpu, cuda or cuda:N"):
        device_of(name)


def test_a_device_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(UserError, match=r"engine\.device=cuda, and torch sees 0 CUDA devices"):
        device_of("cuda")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert device_of("cuda:1") == torch.device("cuda:1")
    with pytest.raises(UserError, match=r"engine\.device=cuda:2, and torch sees 2"):
        device_of("cuda:2")


def test_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2}, raising=False)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert threads_of("auto", SMALL_STEP / 2) == 1
    assert threads_of("auto", SMALL_STEP * 2) == 3
    for granted, expected in (("2", 2), ("8", 3), ("0", 1), ("", 3)):
        monkeypatch.setenv("OMP_NUM_THREADS", granted)
        assert threads_of("auto", SMALL_STEP * 2) == expected
    assert threads_of(5, 0.0) == 5
    monkeypatch.delattr(os, "sched_getaffinity")
    assert module.threads_of("auto", SMALL_STEP * 2) >= 1


@pytest.mark.parametrize("setting", [0, -1, "many", "2", 1.5, True, None])
def test_other_numbers_of_threads_are_refused(setting: object) -> None:
    with pytest.raises(UserError, match=rf"engine\.threads={setting}: use auto, or a number"):
        threads_of(setting, 0.0)


def test_threads_are_given_back() -> None:
    before = torch.get_num_threads()
    inside = []

    def stopped() -> None:
        with cpu_threads(before + 1):
            inside.append(torch.get_num_threads())
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stopped()
    assert inside == [before + 1]
    assert torch.get_num_threads() == before
