"""A list that a server sends in pages, read from the first to the last as one answer.

Servers send lists whole unless asked for pages; one that cuts them of its own accord says where the next page
is in a `Link` header (RFC 8288), and this follows it, on the same path and nowhere else.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar
from urllib.parse import unquote, urlsplit

from llm_config_sdk import errors
from llm_config_sdk.operations import Progress

if TYPE_CHECKING:
    from llm_config_resilience import Clock
    from llm_config_sdk.operations import Call
    from llm_config_sdk.plans import Plan

T = TypeVar("T")

_QUERY: Final = re.compile(r"[!$-;=?-Z\[\]_a-z~]{1,2000}")  # RFC 3986's characters of a query
_LINK: Final = re.compile(r"<([^<>]*)>([^<]*)")
_NEXT: Final = re.compile(r';\s*rel\s*=\s*"?(?:[^";,]*\s)?next[\s";,]?', re.IGNORECASE)


class Pages(Generic[T]):
    """The pages of one list, asked for one after the other within the time of one call.

    Args:
        plan: The call for the first page.
        clock: Time.

    Attributes:
        plan: The call for the next page; `None` when there are no more.
        found: The items so far.
    """

    def __init__(self, plan: Plan[list[T]], clock: Clock) -> None:
        self.plan: Plan[list[T]] | None = plan
        self.found: list[T] = []
        self._clock = clock
        self._end = clock.monotonic() + plan.timeout
        self._timeout = plan.timeout
        self._seen = {plan.call.target}

    def take(self, page: list[T]) -> None:
        """Take a page, and prepare the call for the next one.

        Raises:
            ResponseDecodeError: The next page is elsewhere, or was here before.
            RequestTimeoutError: There is no time left for it.
        """
        plan = self.plan
        if plan is None:
            return
        target = _following(plan.call)
        if target is None:
            self.found = _joined(self.found, page) if self.found else page
            self.plan = None
            return
        self.found = _joined(self.found, page)
        if target in self._seen:
            raise errors.ResponseDecodeError("the server's pages never end: the next one was here before")
        self._seen.add(target)
        left = self._end - self._clock.monotonic()
        if left <= 0:
            raise errors.RequestTimeoutError(f"no end of the list's pages within {self._timeout:g} s")
        call = replace(plan.call, target=target, progress=Progress(), held=None)
        self.plan = replace(plan, call=call, timeout=left)


def read_next(header: str | None) -> str | None:
    """Read where the next page is from a `Link` header; `None` where there is none."""
    if header is None:
        return None
    return next((url for url, about in _LINK.findall(header) if _NEXT.search(about)), None)


def _following(call: Call[Any]) -> str | None:
    """Say what to ask for the next page: this call's own path, with the link's query."""
    link = call.progress.following
    if link is None:
        return None
    path = call.target.partition("?")[0]
    try:
        parts = urlsplit(link)
    except ValueError:
        parts = None
    is_here = parts is not None and (not parts.path or unquote(parts.path).endswith(unquote(path)))
    if parts is None or not is_here or not _QUERY.fullmatch(parts.query):
        raise errors.ResponseDecodeError("the next page of the list is not where the first one was")
    return f"{path}?{parts.query}"


def _joined(found: list[T], page: list[T]) -> list[T]:
    """Join pages: what moved from one to the next while they were read is in there once, as it was last."""
    items = {_identity(item): item for item in (*found, *page)}
    return [items[name] for name in sorted(items)]


def _identity(item: Any) -> Any:
    return item.key if hasattr(item, "key") else -item.version
