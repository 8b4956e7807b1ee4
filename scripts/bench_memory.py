"""Peak memory of an optimizer step over that of the resting model. Needs Linux.

One process measures one cell (``bench_weighting.py memory`` starts them):

    python scripts/bench_memory.py MODEL TASKS WAY THREADS

with WAY one of bare, chosen, plain, segments, torchjd. Prints MiB.
"""

import os
import subprocess
import sys
from pathlib import Path

import torch
from bench_models import (
    MODELS,
    EngineStep,
    InverseNorms,
    Model,
    Problem,
    Step,
    Way,
    bare_step,
    torchjd_step,
)

ALLOCATOR = {
    "MALLOC_MMAP_THRESHOLD_": "65536",  # memory that is freed goes back to the system at once
    "MALLOC_TRIM_THRESHOLD_": "65536",
    "MALLOC_ARENA_MAX": "1",
}
WAYS: dict[str, Way] = {"chosen": "chosen", "plain": "plain", "segments": "segments"}


def make_step(problem: Problem, way: str) -> Step:
    """The step to look at."""
    if way == "bare":
        return bare_step(problem)
    if way == "torchjd":
        return torchjd_step(problem, "mgda", chunk=1)  # its leanest setting
    return EngineStep(problem, InverseNorms(), way=WAYS[way])


def process_kib(key: str) -> int:
    """A line of what Linux says about this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(f"{key}:")).split()[1])


def peak_mib(model: Model, tasks: int, way: str) -> float:
    """Peak of the first three steps over the resting model."""
    make_step(Problem.of(model, tasks, rows=2), way)(1)  # imports, kernels, pools of threads
    problem = Problem.of(model, tasks)
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    resting = process_kib("VmRSS")
    step = make_step(problem, way)
    for number in (1, 2):
        step(number)
    return (process_kib("VmHWM") - resting) / 1024


def measured_mib(model: Model, tasks: int, way: str, threads: int) -> float:
    """The same, in a process of its own."""
    command = [sys.executable, __file__, model, str(tasks), way, str(threads)]
    found = subprocess.run(
        command, env={**os.environ, **ALLOCATOR}, check=True, stdout=subprocess.PIPE, text=True
    )
    return float(found.stdout)


def main() -> None:
    model, tasks, way, threads = sys.argv[1:]
    torch.set_num_threads(int(threads))
    print(peak_mib(next(name for name in MODELS if name == model), int(tasks), way))


if __name__ == "__main__":
    main()
