"""``mtlrun tensorboard``: TensorBoard on runs, with names and links that make them comparable."""

import argparse
import json
import math
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
import webbrowser
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from types import FrameType
from urllib.parse import quote

from mtlrun.analysis.comparison.compare import compare
from mtlrun.analysis.comparison.table import DELTA_M, Row, Table
from mtlrun.analysis.run_names import LinkTree
from mtlrun.analysis.runs import FoundRuns, find_runs
from mtlrun.errors import UserError

PORT = 6006
PORTS_TRIED = 100
STARTING = 60.0
"""Seconds that TensorBoard may take until it answers, on a machine that is busy training."""

READING = 5.0
"""Seconds that it may take from then on to read the runs before the links are shown."""

REFRESH = 5.0
"""Seconds between looks for new runs, as often as TensorBoard reads new events."""

BEST = 3
"""Methods that the link to the best ones shows."""

EXAMPLES = """\
examples:
  mtlrun tensorboard outputs                         all runs below outputs
  mtlrun tensorboard outputs/study/nyuv2 other/runs  runs of several folders side by side
  mtlrun tensorboard outputs --runs 'mgda|equal'     links that show these runs only
"""


def board_command(arguments: list[str]) -> int:
    """Start TensorBoard on the runs below some folders, say where to look, wait for Ctrl-C.

    Args:
        arguments: what follows ``mtlrun tensorboard``.

    Returns:
        the exit code.

    Raises:
        UserError: there are no event files, no free port, or TensorBoard does not start.
    """
    options = _parser().parse_args(arguments)
    _check(options)
    with TemporaryDirectory(prefix="mtlrun-tensorboard-") as temporary, _stopped_by_a_signal():
        tree = LinkTree(Path(temporary, "runs"), options.folders)
        if not tree.refresh():
            where = ", ".join(map(str, options.folders))
            raise UserError(
                f"There are no TensorBoard events below {where}. Runs write them into their "
                "folders below outputs, except with tracking.tensorboard=false."
            )
        port = free_port(options.host, options.port)
        if port != options.port:
            print(f"Port {options.port} is taken; this is port {port}.")
        log = Path(temporary, "log")
        try:
            with _server(tree.folder, options.host, port, log) as server:
                address = f"http://{_reached_at(options.host)}:{port}/"
                _wait_until_it_answers(server, address, len(tree.names), log)
                shown = links(address, tree.names, options.runs, _finished_below(options.folders))
                _say(shown, len(tree.names))
                if options.browser and _has_a_screen():
                    webbrowser.open(shown["loss ratios"])
                _serve(server, tree, log)
        except KeyboardInterrupt:
            print("\nStopped.")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="mtlrun tensorboard",
        description="Show runs in TensorBoard under short names, a colour a method, and print "
        "links to its pages. Runs that begin later appear by themselves. Ctrl-C ends it.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folders", metavar="FOLDER", nargs="+", type=Path, help="holds runs")
    parser.add_argument(
        "--port",
        metavar="N",
        type=int,
        default=PORT,
        help=f"where it listens (default {PORT}); where that is taken, the next one that is free",
    )
    parser.add_argument(
        "--host",
        metavar="H",
        default="localhost",
        help="the address it listens at (default localhost); 0.0.0.0 lets other machines look",
    )
    parser.add_argument(
        "--runs", metavar="REGEX", help="the links show runs only whose names it matches"
    )
    parser.add_argument(
        "--no-browser",
        dest="browser",
        action="store_false",
        help="print the links, and open none",
    )
    return parser


def _check(options: argparse.Namespace) -> None:
    for folder in options.folders:
        if not folder.is_dir():
            problem = "is a file" if folder.exists() else "is not there"
            raise UserError(f"{folder} {problem}. Give a folder that holds runs, such as outputs.")
    if not 1 <= options.port <= 65535:
        raise UserError(f"--port {options.port}: use a number from 1 to 65535.")
    if options.runs is not None:
        try:
            re.compile(options.runs)
        except re.error as error:
            raise UserError(f"--runs {options.runs} is no regular expression: {error}.") from error


# -- links -----------------------------------------------------------------------------------------


def links(
    address: str, names: Mapping[Path, str], runs: str | None, found: FoundRuns
) -> dict[str, str]:
    """What to look at, and where: TensorBoard's pages with filters in their address.

    Args:
        address: of TensorBoard, with a slash at its end.
        names: what TensorBoard calls each run folder.
        runs: a pattern of names, to show these only.
        found: the finished ones among them, to rank them.
    """
    chosen = {"runFilter": runs} if runs else {}
    by_method = {"runColorGroup": "regex:(.*)/seed=", "smoothing": "0"}
    ratios = {"tagFilter": "train/loss_ratio/", **by_method}
    shown = {"loss ratios": _time_series(address, {**ratios, **chosen})}
    methods = {names[folder].rpartition("/")[0] for folder in best_runs(found) if folder in names}
    if methods and not runs:
        pattern = "|".join(re.escape(method) for method in sorted(methods))
        only = {"runFilter": f"^({pattern})/seed="}
        shown["loss ratios, best methods"] = _time_series(address, {**ratios, **only})
    on_test = found.finished and all(run.select_on == "test" for run in found.finished)
    split = "test" if on_test else "val"
    figures = {"tagFilter": f"^{split}/", **by_method, **chosen}
    return {
        **shown,
        f"metrics, {split} split": _time_series(address, figures),
        "tasks together": _page(address, "custom_scalars", regexInput=runs, _smoothingWeight="0"),
        "table of runs": _page(address, "hparams"),
        "results as text": _page(address, "text", tagFilter="^summary", regexInput=runs),
    }


def _time_series(address: str, query: Mapping[str, str]) -> str:
    return f"{address}?{_encoded(query)}#timeseries"


def _page(address: str, page: str, **state: str | None) -> str:
    given = {key: value for key, value in state.items() if value}
    return f"{address}#{page}" + (f"&{_encoded(given)}" if given else "")


def _encoded(query: Mapping[str, str]) -> str:
    return "&".join(f"{key}={quote(value, safe='/:,=()*')}" for key, value in query.items())


def _finished_below(folders: Sequence[Path]) -> FoundRuns:
    try:
        return find_runs(folders)
    except UserError:  # events, but of no run
        return FoundRuns()


def best_runs(found: FoundRuns) -> list[Path]:
    """Folders of the runs of the best methods and of what they are compared with, by delta_m.

    Nothing where there are not more methods than that, or no delta_m to rank them by.
    """
    chosen: list[Row] = []
    for table in compare(found).tables if found.finished else ():
        joint = [row for row in table.rows if not row.single_task]
        known = [row for row in joint if math.isfinite(_delta_m(table, row))]
        ranked = sorted(known, key=partial(_delta_m, table), reverse=True)
        if len(ranked) > BEST:
            chosen += [*ranked[:BEST], *(row for row in table.rows if row.single_task)]
    return [run.folder.resolve() for row in chosen for run in row.runs]


def _delta_m(table: Table, row: Row) -> float:
    """The row's mean relative change over metrics; NaN where there is none."""
    return table.cell(row, DELTA_M).mean


def _say(shown: Mapping[str, str], runs: int) -> None:
    width = max(map(len, shown))
    print(f"TensorBoard shows {runs} run{'s' if runs > 1 else ''}; Ctrl-C ends it.\n")
    for what, link in shown.items():
        print(f"  {what:<{width}}  {link}")
    sys.stdout.flush()


def _has_a_screen() -> bool:
    """Whether a browser would open beside this terminal, and not in it."""
    return sys.platform == "darwin" or bool(
        os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    )


# -- the server ------------------------------------------------------------------------------------


def free_port(host: str, wanted: int) -> int:
    """The first port from ``wanted`` on that nobody listens at.

    Raises:
        UserError: there is none among the next ones, or no such host.
    """
    try:
        families = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except socket.gaierror as error:
        raise UserError(f"--host {host}: there is no such address here ({error}).") from error
    for port in range(wanted, min(wanted + PORTS_TRIED, 65536)):
        if all(_is_free(family, address[0], port) for family, *_, address in families):
            return port
    raise UserError(f"No port from {wanted} on is free at {host}. Give another --port.")


def _is_free(family: int, host: str | int, port: int) -> bool:
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            if isinstance(error, PermissionError):
                raise UserError(
                    f"Port {port} is for administrators. Give another --port."
                ) from error
            return False
        return True


def _reached_at(host: str) -> str:
    """How to call an address that a server listens at."""
    if host in ("0.0.0.0", "::"):
        return socket.gethostname()
    return f"[{host}]" if ":" in host else host


@contextmanager
def _server(folder: Path, host: str, port: int, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """TensorBoard as a process of its own, ended with this context."""
    command = [sys.executable, "-P", "-m", "tensorboard.main"]
    command += ["--logdir", str(folder), "--host", host, "--port", str(port)]
    with log.open("wb") as file:
        # In a session of its own a terminal's Ctrl-C does not reach it before it is ended here.
        server = subprocess.Popen(command, stdout=file, stderr=file, start_new_session=True)
    try:
        yield server
    finally:
        server.terminate()
        try:
            server.wait(timeout=5)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


def _wait_until_it_answers(
    server: subprocess.Popen[bytes], address: str, runs: int, log: Path
) -> None:
    """Wait for TensorBoard, and some seconds longer for it to read all runs."""
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    end = time.monotonic() + STARTING
    answered = math.inf
    while time.monotonic() < min(end, answered + READING):
        if server.poll() is not None:
            raise UserError(f"TensorBoard did not start: {_last_line(log)}")
        with (
            suppress(urllib.error.URLError, ConnectionError, TimeoutError),
            direct.open(f"{address}data/runs", timeout=5) as answer,
        ):
            answered = min(answered, time.monotonic())
            if len(json.load(answer)) >= runs:
                return
        time.sleep(0.2)
    if answered == math.inf:
        raise UserError(f"TensorBoard does not answer at {address}. It says: {_last_line(log)}")


def _serve(server: subprocess.Popen[bytes], tree: LinkTree, log: Path) -> None:
    """Wait for the end, which is an interrupt, and show new runs until then."""
    while True:
        try:
            server.wait(timeout=REFRESH)
        except subprocess.TimeoutExpired:
            tree.refresh()
        else:
            raise UserError(f"TensorBoard has ended: {_last_line(log)}")


def _last_line(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return lines[-1] if lines else "it said nothing."


@contextmanager
def _stopped_by_a_signal() -> Iterator[None]:
    """SIGTERM ends this as Ctrl-C does, so that nothing is left behind."""

    def stop(number: int, frame: FrameType | None) -> None:
        del number, frame
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
