"""Fixtures for all tests, and the rule that tests on real files are not skipped unnoticed."""

import os
import signal
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # of a shell's background job
    # Tests press Ctrl-C, and what they start would ignore it as well.
    signal.signal(signal.SIGINT, signal.default_int_handler)


def data_folder() -> Path | None:
    """The folder of real data: $MTLRUN_DATA, or shared/data beside the checkout."""
    named = os.environ.get("MTLRUN_DATA")
    folder = Path(named) if named else ROOT.parent / "shared" / "data"
    return folder.resolve() if folder.is_dir() else None


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--require-data",
        action="store_true",
        help="fail a test that is skipped for want of real data, where the folder is there",
    )


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def shared_data(request: pytest.FixtureRequest) -> Path:
    """The folder of real data; without it the test is skipped."""
    folder = data_folder()
    if folder is None:
        pytest.skip("no real data: set MTLRUN_DATA")
    return folder


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]):
    report = yield
    required = item.config.getoption("--require-data") and data_folder() is not None
    if required and report.skipped and item.get_closest_marker("data"):
        report.outcome = "failed"
        report.longrepr = f"skipped although the data folder is there: {report.longrepr}"
    return report
