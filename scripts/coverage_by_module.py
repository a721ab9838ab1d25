"""Check that each module of the core and of observe/ is covered whole, branches too, by its own test file alone."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FLOORS = ("machines", "protocol", "service", "observe")


def run(*args: str, data_file: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "COVERAGE_FILE": data_file}
    command = [sys.executable, "-m", "coverage", *args]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


def check(module: Path) -> str | None:
    """Return what is wrong with the coverage of `module`, or None."""
    test = Path("tests") / module.parent.name / f"test_{module.name}"
    if not (ROOT / test).exists():
        return f"there is no {test}"
    with tempfile.TemporaryDirectory() as directory:
        data_file = str(Path(directory) / "coverage")
        tests = run("run", "-m", "pytest", "-q", "-p", "no:cacheprovider", str(test), data_file=data_file)
        if tests.returncode:
            return tests.stdout[-3000:]
        report = run("report", "--include", f"*/{module.parent.name}/{module.name}", "--fail-under=100",
                     data_file=data_file)  # fmt: skip
        return report.stdout if report.returncode else None


def main() -> int:
    failures = 0
    modules = [path for floor in FLOORS for path in sorted((ROOT / "src/wsconnkit" / floor).glob("[!_]*.py"))]
    for module in modules:
        wrong = check(module)
        failures += wrong is not None
        print(f"{module.parent.name}/{module.name}: {'100 %' if wrong is None else 'not covered'}", flush=True)
        if wrong is not None:
            print(wrong, flush=True)
    print(f"{len(modules) - failures} modules covered by their own tests, {failures} not")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
