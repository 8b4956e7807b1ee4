"""A run's result as Markdown, for those who read it in TensorBoard."""

import math
import re
from collections.abc import Iterator, Mapping
from typing import Any


def markdown_summary(result: Mapping[str, Any]) -> str:
    """What the run is, and a table of its metrics: a row a metric, final, best and test.

    Args:
        result: what ``result.json`` holds.
    """
    split = "test" if result["select_on"] == "test" else "val"
    header = ["task", "metric", f"{split}, final", f"{split}, best", "of epoch", "test"]
    lines = [header, ["---", "---", "---:", "---:", "---:", "---:"], *_rows(result["tasks"])]
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return f"{_about(result)}\n\n{table}\n\n{_footnote(result, split)}\n"


def _about(result: Mapping[str, Any]) -> str:
    parameters = result["parameters"]
    facts = {
        "dataset": result["dataset"],
        "method": result["method"],
        "seed": result["seed"],
        "weighting": result["weighting"],
        "architecture": result["architecture"],
        "backbone": result["backbone"],
        "epochs": f"{result['epochs']} ({result['steps']} steps)",
        "parameters": f"{parameters['total']:,} ({parameters['shared']:,} shared)",
        "seconds": f"{result['seconds']:.4g} on {result['device']}",
    }
    return "\n".join(f"- {name}: **{_escaped(value)}**" for name, value in facts.items())


def _rows(tasks: Mapping[str, Any]) -> Iterator[list[str]]:
    for task, values in tasks.items():
        for metric, figures in values["metrics"].items():
            arrow = "↑" if figures["higher_is_better"] else "↓"
            shown = [_shown(figures["final"]), _shown(figures["best"]), str(figures["best_epoch"])]
            yield [_escaped(task), f"{_escaped(metric)} {arrow}", *shown, _shown(figures["test"])]


def _footnote(result: Mapping[str, Any], split: str) -> str:
    chosen = result["selected_epoch"]
    epochs = chosen if isinstance(chosen, dict) else {"": chosen}
    selected = ", ".join(
        f"epoch {epoch}" + (f" ({_escaped(task)})" if task else "")
        for task, epoch in epochs.items()
    )
    return f"test: the model of {selected}, the best on {split}."


def _shown(value: float | None) -> str:
    return "-" if value is None or math.isnan(value) else f"{value:.4g}"


def _escaped(value: object) -> str:
    """Text with nothing in it that Markdown or HTML reads as its own."""
    text = " ".join(str(value).split()).replace("&", "&amp;").replace("<", "&lt;")
    return re.sub(r"([\\`*_{}\[\]#|])", r"\\\1", text)
