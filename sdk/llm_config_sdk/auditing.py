"""What a client wrote, compared with the platform's audit log: what the log does not know is a gap."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Final
from urllib.parse import urlencode

from llm_config_resilience.locks import new_lock
from llm_config_sdk import operations
from llm_config_sdk.contract import IDEMPOTENCY_KEY_HEADER
from llm_config_sdk.observability.events import Incident
from llm_config_sdk.observability.observers import observed

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from llm_config_sdk.contract import AuditRecord
    from llm_config_sdk.observability.events import ObservedCall
    from llm_config_sdk.operations import Call

_REMEMBERED: Final = 1000  # writes that are not compared yet; the oldest one goes
_PAGE: Final = 1000  # records a request: the most that the platform hands out at once
_LONGEST_WRITE: Final = timedelta(minutes=5)  # between a write's record and its acknowledgement


@dataclass(frozen=True, slots=True, eq=False)
class Write:
    """A write that a server acknowledged.

    Attributes:
        call: What was written, with the request id under which the log has to know it.
        acknowledged: When, by the server's clock; `None` where it does not say.
    """

    call: ObservedCall
    acknowledged: datetime | None


class Ledger:
    """The writes of one client that were acknowledged and not compared yet."""

    def __init__(self) -> None:
        self._lock = new_lock()
        self._writes: deque[Write] = deque(maxlen=_REMEMBERED)

    def note(self, call: Call[object]) -> None:
        """Remember a write; not under an idempotency key, whose reply may be that of an earlier request."""
        if IDEMPOTENCY_KEY_HEADER not in call.headers:
            write = Write(observed(call), call.progress.acknowledged)
            with self._lock:
                self._writes.append(write)

    def compare(self) -> Comparison:
        """Begin to compare what there is now."""
        with self._lock:
            return Comparison(tuple(self._writes))

    def settle(self, comparison: Comparison) -> list[Incident]:
        """Forget what was compared; returns an incident for each write that the log does not know."""
        compared = set(comparison.writes)
        with self._lock:
            left = [write for write in self._writes if write not in compared]
            self._writes = deque(left, maxlen=_REMEMBERED)
        return [
            Incident(
                "audit_gap",
                f"{write.call.location}: acknowledged, and the audit log has no record of request "
                f"{write.call.request_id}",
                write.call,
            )
            for write in comparison.missing
        ]


class Comparison:
    """One reading of the audit log, page by page, until every write was found or the log is at its end.

    Args:
        writes: What to look for.
    """

    def __init__(self, writes: Sequence[Write]) -> None:
        self.writes: Sequence[Write] = writes
        self._missing = {write.call.request_id: write for write in writes}
        self._read = 0
        self._is_read_out = False

    @property
    def is_over(self) -> bool:
        """Whether there is nothing more to look for, or nowhere more to look."""
        return self._is_read_out or not self._missing

    @property
    def missing(self) -> list[Write]:
        """The writes that were not found, in the order they were made."""
        return list(self._missing.values())

    @property
    def target(self) -> str:
        """Path and query of the next page."""
        query: dict[str, str | int] = {"limit": _PAGE, "offset": self._read}
        times = [write.acknowledged for write in self.writes]
        known = [moment for moment in times if moment is not None]
        if len(known) == len(times):
            query["from"] = (min(known) - _LONGEST_WRITE).isoformat()
        return f"{operations.READ_AUDIT.path}?{urlencode(query)}"

    def take(self, records: Sequence[AuditRecord]) -> None:
        """Look for the writes in a page."""
        for record in records:
            if record.outcome == "done":
                self._missing.pop(record.request_id, None)
        self._read += len(records)
        self._is_read_out = len(records) < _PAGE
