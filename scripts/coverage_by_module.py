"""Check that each module of the core and of observe/ is covered whole, branches too, by its own tests alone.

Those of `machines/closing.py`, say, are in `tests/machines/test_closing.py` and, where that is long, in
`test_closing_*.py` beside it.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FLOORS = ("machines", "protocol", "service", "observe")


def run(*args: str, data_file: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "COVERAGE_FILE": data_file}
    command = [sys.executable, "-m", "coverage", *args]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


def check(module: Path) -> str | None:
    """Return what is wrong with the coverage of `module`, or None."""
    directory = ROOT / "tests" / module.parent.name
    tests = [directory / f"test_{module.name}", *sorted(directory.glob(f"test_{module.stem}_*.py"))]
    if not tests[0].exists():
        return f"there is no {tests[0].relative_to(ROOT)}"
    with tempfile.TemporaryDirectory() as scratch:
        data_file = str(Path(scratch) / "coverage")
        ran = run("run", "-m", "pytest", "-q", "-p", "no:cacheprovider", *map(str, tests), data_file=data_file)
        if ran.returncode:
            return ran.stdout[-3000:]
        report = run("report", "--include", f"*/{module.parent.name}/{module.name}", "--fail-under=100",
                     data_file=data_file)  # fmt: skip
        return report.stdout if report.returncode else None


def main() -> int:
    failures = 0
    modules = [path for floor in FLOORS for path in sorted((ROOT / "src/wsconnkit" / floor).glob("[!_]*.py"))]
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # each waits for a process
        for module, wrong in zip(modules, pool.map(check, modules), strict=True):
            failures += wrong is not None
            print(f"{module.parent.name}/{module.name}: {'100 %' if wrong is None else 'not covered'}", flush=True)
            if wrong is not None:
                print(wrong, flush=True)
    print(f"{len(modules) - failures} modules covered by their own tests, {failures} not")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
