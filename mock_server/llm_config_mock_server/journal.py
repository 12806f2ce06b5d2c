"""The journal: every request with its outcome, and assertions that say what was seen instead."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from threading import Condition
from time import monotonic
from typing import TYPE_CHECKING, Any, Final

from .faults import Match

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from .messages import At, Outcome, Request

KEPT_REQUESTS: Final = 10_000  # our choice: a bound for the memory of a long run
_SHOWN: Final = 20  # lines of a failed assertion: more are counted, not shown
WAIT_SECONDS: Final = 5.0  # how long `wait_for` waits unless told: far beyond a loopback's hiccup


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One request, and what became of it.

    Args:
        number: Counts from 1.
        at: When the head was there.
        request: The request; its body too, once it was read.
        request_id: The id it carried or was given.
        status: The status that was decided on; `None` while undecided, or where nothing was sent.
        code: The error code of the reply, or `None`.
        fault: The scripted step that it met, or `None`.
        is_done: Whether the outcome is decided.
    """

    number: int
    at: At
    request: Request
    request_id: str
    status: int | None = None
    code: str | None = None
    fault: str | None = None
    is_done: bool = False

    @property
    def method(self) -> str:
        """The method."""
        return self.request.method

    @property
    def path(self) -> str:
        """The percent-decoded path."""
        return self.request.decoded_path

    @property
    def namespace(self) -> str | None:
        """The namespace, or `None`."""
        return self.request.namespace

    @property
    def key(self) -> str | None:
        """The config's key, or `None`."""
        return self.request.key

    @property
    def env(self) -> str | None:
        """The canonical environment, or `None`."""
        return self.request.environment

    @property
    def outcome(self) -> str:
        """The outcome in words: `200`, `404 NOT_FOUND`, `503 SERVICE_UNAVAILABLE (error …)`, `reset`."""
        if not self.is_done:
            return "undecided"
        words = " ".join(str(word) for word in (self.status, self.code) if word is not None)
        if self.fault is None:
            return words or "no reply"
        return f"{words} ({self.fault})" if words else self.fault

    def __str__(self) -> str:
        return f"#{self.number} {self.method} {self.request.target} -> {self.outcome}"

    def __repr__(self) -> str:
        # Headers carry tokens and bodies carry secrets: neither belongs into a test's output.
        return f"<{self}>"


class Journal:
    """The latest requests, oldest first; thread-safe.

    Every question takes the fields of `Match` as keyword arguments:
    `journal.count(method="GET", namespace="app/llm", key="model")`.
    """

    def __init__(self, kept: int = KEPT_REQUESTS) -> None:
        """Begin empty.

        Args:
            kept: How many requests are remembered; older ones are forgotten.

        Raises:
            ValueError: Not even one.
        """
        if kept < 1:
            raise ValueError(f"a journal remembers at least 1 request, not {kept}")
        self._changed = Condition()
        self._entries: deque[Entry] = deque(maxlen=kept)
        self._numbers = 0
        self._cleared = 0
        self.changes: int = 0  # tells whoever shows requests that there is something new

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[Entry]:
        with self._changed:
            return iter(tuple(self._entries))

    def __getitem__(self, index: int) -> Entry:
        with self._changed:
            return self._entries[index]

    def __repr__(self) -> str:
        return f"<Journal of {len(self._entries)} requests>"

    def clear(self) -> None:
        """Forget every request."""
        with self._changed:
            self._entries.clear()
            self._cleared = self._numbers
            self.changes += 1

    @property
    def forgotten(self) -> int:
        """How many requests were seen since the last `clear` and are not remembered any more."""
        with self._changed:
            return self._numbers - self._cleared - len(self._entries)

    def table(self, *, last: int | None = None, **fields: Any) -> str:
        """Return the requests that match as a table for people, oldest first.

        Args:
            last: How many of the latest to show; `None` for all.
            fields: What `requests` takes.
        """
        found = self.requests(**fields)
        shown = found if last is None else found[max(0, len(found) - last) :]
        if not shown:
            return "no requests"
        start = shown[0].at.monotonic
        rows = [("#", "s", "method", "target", "outcome")]
        rows += [
            (
                str(entry.number),
                f"{entry.at.monotonic - start:.3f}",
                entry.method,
                entry.request.target,
                entry.outcome,
            )
            for entry in shown
        ]
        widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]) - 1)]
        lines = [
            "  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[-1]])
            for row in rows
        ]
        hidden = len(found) - len(shown)
        return "\n".join([f"… and {hidden} before", *lines] if hidden else lines)

    def requests(
        self,
        *,
        method: str | None = None,
        path: str | None = None,
        namespace: str | None = None,
        key: str | None = None,
        env: str | None = None,
        headers: Mapping[str, str] | None = None,
        token: str | None = None,
        status: int | None = None,
        code: str | None = None,
        fault: str | None = None,
        match: Match | str | None = None,
    ) -> list[Entry]:
        """Return the requests that match, oldest first.

        Args:
            method: The method, in any letter case.
            path: A glob of the raw path or of the percent-decoded one.
            namespace: A glob of the namespace.
            key: A glob of the config's key.
            env: An environment, by any of its names.
            headers: Globs of header values, by header name.
            token: A bearer token.
            status: The status that was answered.
            code: The error code that was answered.
            fault: A glob of the scripted step that was met: `"*"` for any.
            match: All of the request's side at once, as `MockServer.script` takes it: `"GET app/llm/model"`.
        """
        wanted = Match(
            method=method,
            path=path,
            namespace=namespace,
            key=key,
            env=env,
            headers=headers or {},
            token=token,
        )
        whole = Match.parse(match) if isinstance(match, str) else match
        return [
            entry
            for entry in self
            if wanted.covers(entry.request)
            and (whole is None or whole.covers(entry.request))
            and (status is None or entry.status == status)
            and (code is None or entry.code == code)
            and (fault is None or (entry.fault is not None and fnmatchcase(entry.fault, fault)))
        ]

    def count(self, **fields: Any) -> int:
        """Count the requests that match; takes what `requests` takes."""
        return len(self.requests(**fields))

    def assert_count(self, expected: int, **fields: Any) -> list[Entry]:
        """Return the requests that match, if there are as many as expected.

        Raises:
            AssertionError: There are more or fewer; the message lists them.
        """
        found = self.requests(**fields)
        if len(found) != expected:
            raise AssertionError(_complaint(_counted(expected, fields), found, list(self)))
        return found

    def assert_requested(self, **fields: Any) -> list[Entry]:
        """Return the requests that match, if there is at least one.

        Raises:
            AssertionError: There is none; the message lists what was seen.
        """
        found = self.requests(**fields)
        if not found:
            raise AssertionError(_complaint(f"at least 1 {_words(fields)}", found, list(self)))
        return found

    def assert_not_requested(self, **fields: Any) -> None:
        """Check that no request matches.

        Raises:
            AssertionError: There is one; the message lists them.
        """
        self.assert_count(0, **fields)

    def wait_for(self, expected: int = 1, *, timeout: float = WAIT_SECONDS, **fields: Any) -> list[Entry]:
        """Wait until at least so many requests match, and return them.

        Args:
            expected: How many.
            timeout: Seconds.
            fields: What `requests` takes.

        Raises:
            AssertionError: They did not come in time; the message lists what was seen.
        """
        end = monotonic() + timeout
        with self._changed:
            while len(found := self.requests(**fields)) < expected:
                left = end - monotonic()
                if left <= 0:
                    wanted = f"{_counted(expected, fields)} within {timeout:g} s"
                    raise AssertionError(_complaint(wanted, found, list(self)))
                self._changed.wait(left)
            return found

    def opened(self, request: Request, request_id: str, at: At) -> Entry:
        """Write a request down whose head is there."""
        with self._changed:
            self._numbers += 1
            self.changes += 1
            entry = Entry(number=self._numbers, at=at, request=request, request_id=request_id)
            self._entries.append(entry)
            self._changed.notify_all()
            return entry

    def settled(self, entry: Entry, request: Request, outcome: Outcome, fault: str | None) -> None:
        """Write down what became of a request."""
        reply = outcome.reply
        done = replace(
            entry,
            request=request,
            status=reply.status if reply else None,
            code=reply.code if reply else None,
            fault=fault,
            is_done=True,
        )
        with self._changed:
            self.changes += 1
            # Numbers have no gaps, so the place follows from the oldest entry's number.
            if self._entries and 0 <= (place := entry.number - self._entries[0].number) < len(self._entries):
                self._entries[place] = done
            self._changed.notify_all()


_OF_REPLIES: Final = {"status": "answered", "code": "answered", "fault": "that met"}


def _counted(expected: int, fields: Mapping[str, Any]) -> str:
    """Say how many of what were expected, as in `2 requests of app/llm/model`."""
    words = _words(fields)
    if expected != 1 and words.startswith("request"):
        words = f"requests{words.removeprefix('request')}"
    return f"{expected} {words}"


def _words(fields: Mapping[str, Any]) -> str:
    """Say what was asked for, as in `GET of app/llm/model answered 503`."""
    told = {name: value for name, value in fields.items() if value is not None}
    replies = [f"{words} {told.pop(name)}" for name, words in _OF_REPLIES.items() if name in told]
    whole = told.pop("match", None)
    said = [] if whole is None else [str(Match.parse(whole) if isinstance(whole, str) else whole)]
    said += [str(Match(**told))] if told or whole is None else []
    return " ".join([" and ".join(said), *replies])


def _all(seen: list[Entry]) -> str:
    return "the only request" if len(seen) == 1 else f"all {len(seen)} requests"


def _complaint(wanted: str, found: list[Entry], seen: list[Entry]) -> str:
    shown = found or seen
    lines = "".join(f"\n  {entry}" for entry in shown[:_SHOWN])
    more = f"\n  … and {len(shown) - _SHOWN} more" if len(shown) > _SHOWN else ""
    if found:
        return f"expected {wanted}, saw {len(found)}:{lines}{more}"
    others = f"; {_all(seen)}:{lines}{more}" if seen else "; there were no requests"
    return f"expected {wanted}, saw 0{others}"
