"""Values as this server gives them back: no null, no integer beyond an i64, keys in an order of their own."""

from __future__ import annotations

from typing import Any, Final, cast

_SMALLEST: Final = -(2**63)
_LARGEST: Final = 2**63 - 1


def as_kept(value: Any) -> Any:
    """Return what becomes of a JSON value in the server's own types."""
    match value:
        case None:
            return ""
        case bool() | str() | float():
            return value
        case int():
            return value if _SMALLEST <= value <= _LARGEST else float(value)
        case list():
            items = cast("list[object]", value)
            return [as_kept(item) for item in items]
        case _:
            members = cast("dict[str, object]", value)
            return {name: as_kept(members[name]) for name in sorted(members)}
