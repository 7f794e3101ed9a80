"""A pytest plug-in beside a suite that is run as it is: writes each test's outcome to the file that BERTH_OUTCOMES names,
a line of JSON each, as soon as it is known."""

import json
import os


class Outcomes:
    def __init__(self, path):
        self.path = path
        self.seconds = {}
        self.trouble = {}

    def pytest_runtest_logreport(self, report):
        # A test has up to three reports (setup, call, teardown); the first that is no success decides.
        test = report.nodeid
        self.seconds[test] = self.seconds.get(test, 0.0) + report.duration
        if hasattr(report, "wasxfail"):
            # The suite itself does not know whether such a test should pass.
            self.trouble.setdefault(test, ("skipped", report.wasxfail))
        if not report.passed and test not in self.trouble:
            outcome = "skipped" if report.skipped else "failed"
            self.trouble[test] = (outcome, str(report.longrepr))
        if report.when != "teardown":
            return
        outcome, reason = self.trouble.get(test, ("passed", ""))
        line = {"test": test, "outcome": outcome, "seconds": round(self.seconds[test], 2), "reason": reason}
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")


def pytest_configure(config):
    path = os.environ.get("BERTH_OUTCOMES")
    if path:
        config.pluginmanager.register(Outcomes(path), "berth-outcomes")
