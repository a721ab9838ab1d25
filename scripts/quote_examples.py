"""Copy the examples into the pages that show them: `python scripts/quote_examples.py [--check]`."""

from __future__ import annotations

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
QUOTE = re.compile(r"(<!-- (examples/\w+\.py) -->\n).*?(<!-- end -->)", re.DOTALL)


def quoted(page: str) -> str:
    """Return `page` with each example as it is in its file."""
    return QUOTE.sub(lambda m: f"{m[1]}\n```python\n{(ROOT / m[2]).read_text(encoding='utf-8')}```\n\n{m[3]}", page)


def main() -> int:
    status = 0
    for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))):
        page = path.read_text(encoding="utf-8")
        if quoted(page) == page:
            continue
        if "--check" in sys.argv[1:]:
            print(f"{path.name} differs from its examples; run: python scripts/quote_examples.py", file=sys.stderr)
            status = 1
        else:
            path.write_text(quoted(page), encoding="utf-8")
    return status


if __name__ == "__main__":
    sys.exit(main())
