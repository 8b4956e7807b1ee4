"""Runs on a GPU: every kind of weighting trains there, and to the same figures as on the CPU."""

import json
from pathlib import Path

import pytest
import torch

from mtlrun.cli import run_command

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


def result_on(device: str, arguments: list[str]) -> dict:
    shared = ["epochs=8", "tracking.tensorboard=false", f"engine.device={device}"]
    assert run_command([*shared, *arguments, f"study={device}"]) == 0
    (path,) = Path().glob(f"outputs/{device}/*/*/*/result.json")
    return json.loads(path.read_text())


@pytest.mark.parametrize(
    "arguments",
    [
        ["weighting=equal"],
        ["weighting=uncertainty", "engine.accumulate=2"],
        ["weighting=gradnorm"],
        ["weighting=mgda"],
        ["weighting=mgda", "gradients.at=representation"],
        ["weighting=pcgrad", "gradients.every=5"],
        ["weighting=graddrop"],
        ["architecture=single_task", "engine.clip_norm=1"],
        ["weighting=equal", "engine.amp=bf16", "engine.workers=1"],
    ],
    ids=" ".join,
)
def test_trains_as_on_the_cpu(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    on_cpu, on_gpu = result_on("cpu", arguments), result_on("cuda", arguments)
    assert on_gpu["device"] == "cuda"
    for name, task in on_gpu["tasks"].items():
        there = on_cpu["tasks"][name]
        assert task["loss"]["initial"] == pytest.approx(there["loss"]["initial"], rel=0.02)
        assert task["loss"]["final"] == pytest.approx(there["loss"]["final"], rel=0.25)
