"""The validator: what the server takes for an attack, anywhere in the raw path or the raw query."""

from __future__ import annotations

import re
from typing import Final

from .words import POLICY, RefusedError, flat

LONGEST: Final = 1000  # bytes of the path after /api/v1, or of the query

_SQL_PAIRS: Final = (
    ("union", "select"),
    ("drop", "table"),
    ("insert", "into"),
    ("delete", "from"),
    ("update", "set"),
)  # in this order, with whatever between the two
_ANY_CASE: Final = re.compile(
    "|".join(
        (
            *(rf"\b{first}\b.*\b{second}\b" for first, second in _SQL_PAIRS),
            r"['@;]|--|/\*|\*/",
            r"\bexec[\s+]+[sx]p\w+",
            r"<script[^>]*>.*?</script>|<iframe|<embed|<object",
            # `on` and letters before `=` is an event's handler, whatever was meant.
            r"javascript:|on\w+\s*=|eval\(|expression\(",
        )
    ),
    re.IGNORECASE,
)
_THIS_CASE: Final = re.compile(r"\.\./|\.\.\\|%2e%2e/|%2e%2e\\|[;&|`$\n]")


def validate(raw: str) -> None:
    """Hold a raw path or query to the server's security policy.

    Raises:
        RefusedError: It is too long, or looks like an attack.
    """
    if len(raw) > LONGEST:
        message = f"Input validation failed: Input exceeds maximum length of {LONGEST} characters"
        raise RefusedError(flat(400, message))
    if _ANY_CASE.search(raw) or _THIS_CASE.search(raw):
        raise RefusedError(flat(400, POLICY))
