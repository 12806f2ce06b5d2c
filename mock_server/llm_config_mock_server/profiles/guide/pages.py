"""Pages: a list cut by `limit` and `offset`, where the query asks for it; else it comes whole.

The body stays an array. `X-Total-Count` says how many items there are, and `Link` (RFC 8288) where
the next page is; there is none behind the last one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeVar
from urllib.parse import urlencode

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from llm_config_mock_server.messages import Header

    from .refusals import RefusedError
    from .visit import Visit

PAGE_DEFAULT: Final = 100  # items, where only `offset` is given
PAGE_MAX: Final = 1000  # items; with PAGE_DEFAULT, what the platform's papers plan
PARAMETERS: Final = frozenset({"limit", "offset"})
_DIGITS_MAX: Final = 15  # of a number that is read at all

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Page:
    """What part of a list is wanted."""

    limit: int
    offset: int

    def cut(self, items: Sequence[_T]) -> Sequence[_T]:
        """Return the items of this page."""
        return items[self.offset : self.offset + self.limit]


def page_of(visit: Visit, refusal: Callable[[str, str], RefusedError]) -> Page | None:
    """Return the page that the query asks for, or `None` for all there is.

    Args:
        visit: The visit.
        refusal: Makes the error of a parameter that is none, from a message and the parameter's name.

    Raises:
        RefusedError: `limit` is not 1 to 1000, or `offset` no number.
    """
    if PARAMETERS.isdisjoint(visit.request.parameters):
        return None

    def number(name: str, default: int, least: int, most: int) -> int:
        text = visit.parameter(name)
        if text is None:
            return default
        if not text.isascii() or not text.isdigit() or len(text) > _DIGITS_MAX:
            raise refusal(f"{name} must be a number, not {text!r}", name)
        if not least <= int(text) <= most:
            raise refusal(f"{name} must be {least} to {most}, not {text}", name)
        return int(text)

    return Page(number("limit", PAGE_DEFAULT, 1, PAGE_MAX), number("offset", 0, 0, 10**_DIGITS_MAX))


def page_headers(visit: Visit, page: Page | None, total: int) -> tuple[Header, ...]:
    """Return what a reply says of its page."""
    if page is None:
        return ()
    counted = ("x-total-count", str(total))
    following = page.offset + page.limit
    if following >= total:
        return (counted,)
    query = [
        (name, value)
        for name, values in visit.request.parameters.items()
        for value in values
        if name not in PARAMETERS
    ]
    wanted = urlencode([*query, ("limit", page.limit), ("offset", following)])
    return (counted, ("link", f'<{visit.request.path}?{wanted}>; rel="next"'))
