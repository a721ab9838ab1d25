"""No token in anything that is written while the tests run: the test that is on when one is written fails."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Generator

import pytest

from .tokenwatch import TokenWatch

LEVELS = {"caplog", "root"}
"""Fixtures of tests that say themselves what is logged; in all others it is everything."""


def pytest_configure(config: pytest.Config) -> None:
    # With pytest-xdist the tests run in its workers, and the pipes to them are no output.
    if hasattr(config, "workerinput") or not getattr(config.option, "numprocesses", None):
        config.pluginmanager.register(Watching(), "tokenwatch")


class Watching:
    """The hooks in which a `TokenWatch` is asked."""

    def __init__(self) -> None:
        self._leaks: list[str] = []
        self._watch = TokenWatch()
        self._patches = pytest.MonkeyPatch()
        self._watch.install(self._patches)

    def pytest_unconfigure(self) -> None:
        self._watch.uninstall()
        self._patches.undo()

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, object, object]:
        logger = logging.getLogger("wsconnkit")
        if LEVELS.isdisjoint(getattr(item, "fixturenames", ())):
            logger.setLevel(logging.DEBUG)
        try:
            return (yield)
        finally:
            logger.setLevel(logging.NOTSET)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        report = yield
        for name, text in report.sections:
            if name in (f"Captured stdout {call.when}", f"Captured stderr {call.when}"):
                self._watch.look(text, f"to {name.split()[1]}")
        leaks = "\n".join(self._watch.take())
        if leaks:
            report.sections.append(("tokens", leaks))
            if not report.failed:
                report.outcome, report.longrepr = "failed", leaks
                report.__dict__.pop("wasxfail", None)
        return report

    def pytest_warning_recorded(self, warning_message: warnings.WarningMessage, nodeid: str) -> None:
        self._watch.look(str(warning_message.message), f"in a warning of {nodeid}")

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Fail the session for what was written outside of all tests."""
        self._leaks += self._watch.take()
        if self._leaks:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        for leak in self._leaks:
            terminalreporter.write_line(f"before or after a test: {leak}", red=True)
