"""Text from elsewhere as it may be shown: nothing in it can control a terminal, or pass for something else."""

from __future__ import annotations

import unicodedata

_LINE_ENDS = ("Zl", "Zp")


def printable(text: str, keep: str = "") -> str:
    r"""Return `text` with its characters that are not to be seen as escapes such as `\x1b`, but for those in `keep`.

    These are controls, format characters (of which some turn the direction of writing), line and paragraph separators,
    surrogates, and code points that are unassigned or for private use.
    """
    if text.isprintable():
        return text
    return "".join(
        char.encode("unicode_escape").decode() if _is_unseen(char) and char not in keep else char for char in text
    )


def _is_unseen(char: str) -> bool:
    category = unicodedata.category(char)
    return category.startswith("C") or category in _LINE_ENDS
