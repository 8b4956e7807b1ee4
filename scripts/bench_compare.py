"""How long `mtlrun compare` takes on thousands of runs: without its cache, and with it.

Writes run folders in a temporary folder, copies of one real-sized result and configuration with
other figures, and prints the seconds of the whole command, start of Python included.

    python scripts/bench_compare.py [--runs 2000]
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

SEEDS = 5
TASKS = {
    "segmentation": {"mean_iou": (True, 0.2), "pixel_accuracy": (True, 0.5)},
    "depth": {
        "absolute_error": (False, 0.7),
        "relative_error": (False, 0.3),
        "rmse": (False, 1.1),
    },
    "normals": {
        "mean_angle": (False, 37.0),
        "median_angle": (False, 36.0),
        "within_11.25": (True, 0.08),
        "within_22.5": (True, 0.25),
        "within_30": (True, 0.39),
    },
}
WEIGHTINGS = ("equal", "uncertainty", "gradnorm", "mgda", "pcgrad", "cagrad", "nash_mtl", "famo")

CONFIG = """\
seed: {seed}
study: bench
outputs: outputs
epochs: 10
batch_size: 8
tasks: null
select_on: validation
dataset:
  _target_: mtlrun.data.nyuv2.NYUv2
  root: null
  size:
  - 60
  - 80
  classes: 13
  validation: 0.1
  seed: 0
  augment: true
  prepared: null
  in_memory: auto
  tasks:
    segmentation:
      _target_: mtlrun.tasks.segmentation.Segmentation
    depth:
      _target_: mtlrun.tasks.depth.Depth
    normals:
      _target_: mtlrun.tasks.normals.SurfaceNormals
backbone:
  _target_: mtlrun.models.backbones.resnet18.ResNet18
  width: 32
  output_stride: 16
  small_input: false
  weights: null
heads:
  stages: null
  _target_: mtlrun.models.heads.conv.ConvHead
  hidden: 64
  depth: 1
  norm: batch
architecture:
  _target_: mtlrun.models.architectures.{architecture}
weighting:
  _target_: mtlrun.weighting.{weighting}
sampler:
  _target_: mtlrun.sampling.joint.Joint
  epoch: longest
  batch_sizes: null
optimizer:
  _target_: torch.optim.Adam
  lr: {lr}
  betas:
  - 0.9
  - 0.999
  eps: 1.0e-08
  weight_decay: 0.0
  fused: true
scheduler:
  _target_: torch.optim.lr_scheduler.CosineAnnealingLR
  T_max: null
  eta_min: 0.0
engine:
  device: auto
  threads: 1
  workers: 0
  amp: none
  compile: false
  channels_last: false
  accumulate: 1
  clip_norm: null
  on_nonfinite: stop
  log_every: 20
  checkpoint_minutes: 10.0
  evaluation_batch_size: null
  keep_data_on_device: true
gradients:
  at: auto
  every: 1
  smoothing: 0.0
  rescale: none
  memory_gb: 4.0
model:
  freeze: []
  init_from: null
tracking:
  tensorboard: true
  images: 4
  progress: none
  baseline: null
toy: null
"""


def main() -> None:
    """Print seconds without and with the cache, and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--runs", type=int, default=2000)
    runs = parser.parse_args().runs
    with tempfile.TemporaryDirectory() as place:
        outputs = Path(place) / "outputs"
        write_runs(outputs, runs)
        environment = {**os.environ, "XDG_CACHE_HOME": str(Path(place) / "cache")}
        cold = seconds(outputs, environment)
        cached = min(seconds(outputs, environment) for _ in range(3))
    print(f"{runs} run folders, {-(-runs // SEEDS)} methods of up to {SEEDS} seeds")
    print(f"without a cache  {cold:6.2f} s")
    print(f"with its cache   {cached:6.2f} s")
    print(f"ratio            {cold / cached:6.2f}")


def seconds(outputs: Path, environment: dict[str, str]) -> float:
    """Of one comparison, from the start of Python to its end."""
    command = "import sys; from mtlrun.cli import main; sys.argv[0] = 'mtlrun'; main()"
    arguments = [sys.executable, "-c", command, "compare", str(outputs), "--format", "csv"]
    began = time.perf_counter()
    subprocess.run(arguments, env=environment, check=True, capture_output=True)
    return time.perf_counter() - began


def write_runs(outputs: Path, count: int) -> None:
    """Folders of ``count`` runs: the baseline, then weightings with learning rates."""
    draw = random.Random(0)
    for number in range(count):
        method, seed = divmod(number, SEEDS)
        weighting = WEIGHTINGS[method % len(WEIGHTINGS)] if method else "equal"
        rate = (1 + method // len(WEIGHTINGS)) / 1000
        architecture = "hps" if method else "single_task"
        changed = {"optimizer.lr": rate} | ({} if method else {"architecture": "single_task"})
        name = ",".join([weighting, *(f"{key}={value}" for key, value in changed.items())])
        folder = outputs / "bench" / "nyuv2" / name / f"seed={seed}"
        folder.mkdir(parents=True)
        result = result_of(draw, weighting, architecture, seed, name, changed)
        (folder / "result.json").write_text(json.dumps(result, indent=1))
        config = CONFIG.format(seed=seed, lr=rate, weighting=weighting, architecture=architecture)
        (folder / "config.yaml").write_text(config)


def result_of(
    draw: random.Random,
    weighting: str,
    architecture: str,
    seed: int,
    method: str,
    changed: Mapping[str, object],
) -> dict[str, object]:
    """What a run leaves in result.json."""
    tasks = {}
    for task, metrics in TASKS.items():
        figures = {}
        for name, (higher, typical) in metrics.items():
            value = typical * draw.uniform(0.9, 1.1)
            figures[name] = {
                "higher_is_better": higher,
                "optimum": float(higher),
                **dict.fromkeys(("test", "final", "best"), value),
                "best_epoch": 10,
            }
        tasks[task] = {
            "likelihood": "laplace",
            "headline": next(iter(metrics)),
            "train_rows": 715,
            "metrics": figures,
            "loss": {"initial": 2.5, "final": 1.5, "loss_ratio": 0.6},
            "weight": 1.0,
        }
    return {
        "format": 1,
        "mtlrun": "0.1.0",
        "state": "finished",
        "study": "bench",
        "dataset": "nyuv2",
        "weighting": weighting,
        "architecture": architecture,
        "backbone": "resnet18",
        "sampler": "joint",
        "seed": seed,
        "method": method,
        "changed": changed,
        "select_on": "validation",
        "epochs": 10,
        "selected_epoch": 10,
        "tasks": tasks,
        "steps": 890,
        "drawn": {"nyuv2": 890},
        "seconds": draw.uniform(500, 1000),
        "examples_per_second": 7.0,
        "device": "cpu",
        "threads": 1,
        "versions": {"torch": "2.9.0", "numpy": "2.3.0", "hydra-core": "1.3.8"},
    }


if __name__ == "__main__":
    main()
