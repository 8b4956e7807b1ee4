"""The page in a browser: what happens on a click, under the pointer, and on a narrow screen.

Its HTML, pictures and data are tested without a browser in ``analysis/test_report.py``; what is
here needs a Chromium on the path and is left out where there is none.
"""

import html
import json
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from mtlrun.analysis.report.command import report_command

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
BROWSER = next((path for path in map(shutil.which, NAMES) if path), None)

pytestmark = pytest.mark.skipif(
    BROWSER is None, reason=f"no browser ({', '.join(NAMES)}) on the path"
)

METHODS = {
    "equal,architecture=single_task": (0.90, 0.30, 40.0),
    "equal": (0.95, 0.20, 10.0),
    "mgda": (0.80, 0.40, 30.0),
    "a,very.long.name.of.a.setting=with_a_value_that_no_phone_has_room_for_in_one_line": (
        *(0.85, 0.25, 20.0),
    ),
}
ORDER_BY_ACCURACY = ["equal", "equal,arc", "a,very.lo", "mgda"]

ACTIONS = """
const errors = [];
addEventListener("error", (event) => errors.push(String(event.message)));
addEventListener("load", () => {
  const one = (selector, below = document) => below.querySelector(selector);
  const all = (selector, below = document) => [...below.querySelectorAll(selector)];
  const found = { errors, width: innerWidth };
  const point = (node, name, x, y) => node.dispatchEvent(
    new PointerEvent(name, { clientX: x, clientY: y, bubbles: true }));
  const wide = () => document.scrollingElement.scrollWidth;
  found.page = wide();
  all("details").forEach((part) => { part.open = true; });
  found.unfolded = wide();
  all("details").forEach((part) => { part.open = false; });

  const table = one("table.figures");
  const heads = all("thead tr:last-child th", table);
  const names = () => all("tbody th", table).map((cell) => cell.textContent.slice(0, 9));
  const sorted = (text) => {
    const head = heads.find((cell) => cell.textContent.startsWith(text));
    const button = one("button", head);
    button.focus();
    const focused = document.activeElement === button;
    button.click();
    const sort = heads.map((h) => h.getAttribute("aria-sort")).join(" ");
    return { names: names(), sort, focused };
  };
  found.first = names();
  found.accuracy = [sorted("accuracy"), sorted("accuracy")];
  found.rmse = sorted("rmse");
  found.method = sorted("method");
  const box = table.parentElement;
  box.scrollLeft = 60;
  found.stays = Math.round(
    one("tbody th", table).getBoundingClientRect().left - box.getBoundingClientRect().left);

  const tip = one(".tip");
  const plot = () => one(".plot");
  const hover = () => {
    const shape = plot().getBoundingClientRect();
    point(plot(), "pointermove", shape.left + shape.width / 2, shape.top + 30);
    return { text: tip.innerText, hidden: tip.hidden, dots: all(".near", plot()).length };
  };
  found.panels = all(".panel").length;
  found.hover = hover();
  point(plot(), "pointerleave", 0, 0);
  found.left = tip.hidden;
  plot().dispatchEvent(new KeyboardEvent("keydown", { key: "Home" }));
  found.home = tip.innerText;
  plot().dispatchEvent(new KeyboardEvent("keydown", { key: "ArrowRight" }));
  found.right = tip.innerText;

  const lines = () => all(".line[data-method]", plot()).map((line) => line.dataset.method).join("");
  const entry = () => one('.legend [data-method="1"]');
  found.lines = [lines()];
  entry().click();
  found.pressed = entry().getAttribute("aria-pressed");
  found.lines.push(lines());
  entry().click();
  found.lines.push(lines());
  const [kinds, items] = all(".controls select");
  kinds.value = 1;
  kinds.dispatchEvent(new Event("change"));
  items.value = 0;
  items.dispatchEvent(new Event("change"));
  found.chosen = all(".panel figcaption").map((caption) => caption.textContent);
  found.plain = plot().getAttribute("aria-label");
  const group = one("svg.cost g");
  const dot = one(".target", group).getBoundingClientRect();
  point(group, "pointermove", dot.left, dot.top);
  found.cost = tip.innerText;
  parent.postMessage(JSON.stringify(found), "*");
});
"""

FRAME = """<!DOCTYPE html>
<iframe src="{name}" width="{width}" height="900" style="border: 0"></iframe><pre id="result"></pre>
<script>onmessage = (event) => {{ document.getElementById("result").textContent = event.data; }}
</script>
"""
"""A browser's window has a least width, which a frame has not."""


def write_run(folder: Path, figures: tuple[float, float, float], seed: int) -> None:
    accuracy, error, seconds = figures
    method = folder.name
    folder = folder / f"seed={seed}"
    folder.mkdir(parents=True)

    def metric(value: float, higher: bool) -> dict[str, Any]:
        return {"higher_is_better": higher} | dict.fromkeys(("test", "final", "best"), value)

    single = "single_task" in method
    result = {
        **{"format": 1, "state": "finished", "study": "default", "dataset": "digits"},
        **{"method": method, "weighting": method.split(",")[0], "seed": seed, "epochs": 2},
        **{"architecture": "single_task" if single else "hps", "select_on": "validation"},
        "tasks": {
            "digit": {"metrics": {"accuracy": metric(accuracy + 0.01 * seed, True)}},
            "ink": {"metrics": {"rmse": metric(error + 0.01 * seed, False)}},
        },
        **{"seconds": seconds, "device": "cpu", "threads": 1},
    }
    (folder / "result.json").write_text(json.dumps(result))
    settings = {"epochs": 2, "select_on": "validation", "weighting": {"name": method}}
    (folder / "config.yaml").write_text(yaml.safe_dump(settings))
    rows = ["step,epoch,task,loss,loss_ratio,weight,grad_norm"]
    for step in range(1, 102, 10):
        ratio = (1 + seed / 10) * accuracy ** (step / 20)
        rows += [f"{step},1,{task},{ratio},{ratio},1," for task in ("digit", "ink")]
    (folder / "losses.csv").write_text("\n".join(rows) + "\n")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of four methods with two seeds each."""
    folder = tmp_path_factory.mktemp("report")
    for method, figures in METHODS.items():
        for seed in (0, 1):
            write_run(folder / "outputs/default/digits" / method, figures, seed)
    (folder / "outputs/default/digits/failed/seed=0").mkdir(parents=True)
    arguments = [str(folder / "outputs"), "-o", str(folder / "page.html"), "--no-cache"]
    assert report_command(arguments) == 0
    return folder / "page.html"


def browse(page: Path, profile: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """Open a page; gives what became of it, and what the browser says on stderr."""
    assert BROWSER is not None
    return subprocess.run(
        [
            *(BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom"),
            *("--virtual-time-budget=5000", f"--user-data-dir={profile}"),
            *("--window-size=1400,1000", *options, page.as_uri()),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )


@pytest.fixture(scope="module")
def acted(made: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], dict[str, Any]]:
    """What the actions find on the page at a width, once each."""
    known: dict[int, dict[str, Any]] = {}

    def act(width: int) -> dict[str, Any]:
        if width not in known:
            text = made.read_text()
            # The page's policy lets nothing run but its own script.
            text = re.sub(r"script-src [^\"]*", "script-src 'unsafe-inline'", text, count=1)
            page = made.with_name(f"acted-{width}.html")
            page.write_text(text.replace("<title>", f"<script>{ACTIONS}</script><title>", 1))
            frame = made.with_name(f"frame-{width}.html")
            frame.write_text(FRAME.format(name=page.name, width=width))
            dump = browse(frame, tmp_path_factory.mktemp("profile")).stdout
            result = re.search(r'<pre id="result">(.+?)</pre>', dump, re.DOTALL)
            assert result, dump[-2000:]
            known[width] = json.loads(html.unescape(result[1]))
        return known[width]

    return act


def test_the_page_opens_without_a_complaint(made: Path, tmp_path: Path) -> None:
    browsed = browse(made, tmp_path, "--enable-logging=stderr", "--v=0")
    assert "CONSOLE" not in browsed.stderr
    assert 'aria-sort="none"' in browsed.stdout  # its script ran, under its own policy
    assert 'class="plot"' in browsed.stdout


@pytest.mark.parametrize("width", [390, 1280])
def test_only_boxes_scroll_sideways(acted: Callable[[int], dict[str, Any]], width: int) -> None:
    found = acted(width)
    assert found["errors"] == []
    assert found["width"] == width
    assert found["page"] <= width
    assert found["unfolded"] <= width
    assert found["stays"] == 0  # the first column


def test_a_click_on_a_heading_sorts(acted: Callable[[int], dict[str, Any]]) -> None:
    found = acted(1280)
    assert found["first"] == ["equal,arc", "equal", "a,very.lo", "mgda"]
    once, twice = found["accuracy"]
    assert once["names"] == ORDER_BY_ACCURACY  # the best first
    assert once["sort"].split()[:4] == ["none", "none", "descending", "none"]
    assert once["focused"]  # a button: keys work as they do on any
    assert twice["names"] == ORDER_BY_ACCURACY[::-1]
    assert twice["sort"].split()[2] == "ascending"
    assert found["rmse"]["names"] == ["equal", "a,very.lo", "equal,arc", "mgda"]
    assert found["rmse"]["sort"].split()[:4] == ["none", "none", "none", "ascending"]
    assert found["method"]["names"] == ["a,very.lo", "equal", "equal,arc", "mgda"]


@pytest.mark.parametrize("width", [390, 1280])
def test_pointer_and_keys_show_the_values_of_all_lines(
    acted: Callable[[int], dict[str, Any]], width: int
) -> None:
    found = acted(width)
    assert found["panels"] == 2
    assert not found["hover"]["hidden"]
    assert found["hover"]["dots"] == 4
    step, *entries = found["hover"]["text"].split("\n")
    assert re.fullmatch(r"step [4-6]1", step)
    values = [float(entry.split()[0]) for entry in entries if re.match(r"[\d.]+\s+\(", entry)]
    assert len(values) == 4
    assert values == sorted(values, reverse=True)
    assert found["left"]
    assert found["home"].startswith("step 1\n")
    assert found["right"].startswith("step 11\n")


def test_names_switch_lines_and_selects_choose(acted: Callable[[int], dict[str, Any]]) -> None:
    found = acted(1280)
    assert found["lines"] == ["0123", "023", "0123"]
    assert found["pressed"] == "false"
    assert found["chosen"] == ["digit"]
    assert found["plain"].startswith("weight, digit: 4 lines")
    assert "delta_m" in found["cost"]
    assert "seconds" in found["cost"]
