"""A run's result as Markdown, for those who read it in TensorBoard."""

import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

HARDLY_LEARNT = 0.95
"""A loss ratio at half of the run that is said when it is higher."""

FAR_ABOVE = 10
"""A noise scale is said when it is more than so many times the rows of a step."""

OFTEN = 0.75
"""A share of steps in conflict that is said; independent directions give a half."""


def markdown_summary(result: Mapping[str, Any]) -> str:
    """What the run is, and a table of its metrics: a row a metric, final, best and test.

    Args:
        result: what ``result.json`` holds.
    """
    split = "test" if result["select_on"] == "test" else "val"
    header = ["task", "metric", f"{split}, final", f"{split}, best", "of epoch", "test"]
    lines = [header, ["---", "---", "---:", "---:", "---:", "---:"], *_rows(result["tasks"])]
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    found = standing_out(result["tasks"])
    said = [
        f"- **{_escaped(task)}**: {_escaped('; '.join(facts))}" for task, facts in found.items()
    ]
    remarks = ["What stands out:\n\n" + "\n".join(said)] if said else []
    return "\n\n".join([_about(result), table, _footnote(result, split), *remarks]) + "\n"


def standing_out(tasks: Mapping[str, Any]) -> dict[str, list[str]]:
    """What a run's figures say of tasks that may have failed; others are left out.

    Args:
        tasks: those of ``result.json``.
    """
    facts = {task: [*_facts(values)] for task, values in tasks.items()}
    return {task: found for task, found in facts.items() if found}


def by_primary(result: Mapping[str, Any]) -> str:
    """`` by depth``: the tasks that selected the model, where they are not all.

    Empty for networks of their own: those without a primary task are selected by their own tasks.
    """
    primary = result.get("primary")
    one_model = not isinstance(result["selected_epoch"], dict)
    return f" by {', '.join(primary)}" if primary and one_model else ""


def _facts(values: Mapping[str, Any]) -> Iterator[str]:
    ratio = values.get("loss", {}).get("loss_ratio_at_half")
    if ratio is not None and ratio > HARDLY_LEARNT:
        yield f"hardly learnt by half of the run: its loss stood at {ratio:.0%} of the first one"
    noise, rows = values.get("noise_scale"), values.get("rows_per_step")
    if values.get("noise_drowns"):
        yield (
            f"noise drowns its gradient: in the {values['noise_steps']} steps looked at its rows "
            "had no direction in common"
        )
    elif noise is not None and rows is not None and noise > FAR_ABOVE * rows:
        yield (
            f"its gradient is mostly noise: the noise scale is {noise:.4g} rows, a step has "
            f"{rows:.4g}; larger batches would help"
        )
    for other, share in (values.get("conflicts") or {}).items():
        if share >= OFTEN:
            yield f"in conflict with {other} in {share:.0%} of the steps"


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
    best = _escaped(f"the best on {split}{by_primary(result)}")
    return f"test: the model of {selected}, {best}."


def _shown(value: float | None) -> str:
    return "-" if value is None or math.isnan(value) else f"{value:.4g}"


def _escaped(value: object) -> str:
    """Text with nothing in it that Markdown or HTML reads as its own."""
    text = " ".join(str(value).split()).replace("&", "&amp;").replace("<", "&lt;")
    return re.sub(r"([\\`*_{}\[\]#|])", r"\\\1", text)
