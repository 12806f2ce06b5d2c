"""Similar errors, counted together: the guide's aggregator."""

from __future__ import annotations

import dataclasses
import json
import re
from collections import OrderedDict
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from llm_config_resilience import SystemClock
from llm_config_resilience.arguments import check_count
from llm_config_resilience.locks import new_lock
from llm_config_sdk.errors import LLMConfigError, one_line
from llm_config_sdk.observability.events import Observer
from llm_config_sdk.observability.families import code_of, error_type

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from prometheus_client.core import GaugeMetricFamily
    from prometheus_client.registry import Collector

    from llm_config_resilience import Clock
    from llm_config_sdk.observability.events import CallEvent
    from llm_config_sdk.observability.families import ErrorType

_GROUPS: Final = 256  # groups kept: more than anybody reads, and far more than one outage makes
_MESSAGE_LENGTH: Final = 300  # characters of a message that are kept
_LABEL_LENGTH: Final = 100  # characters of a pattern in a metric's label
_SHORTEST_NAME: Final = 3  # characters: a key named "a" would punch holes into every word

# In this order: what is more particular first.
_SUBSTITUTES: Final[tuple[tuple[re.Pattern[str], str], ...]] = (
    (re.compile(r"\b[a-z][a-z0-9+.-]*://[^\s\"'<>]+", re.IGNORECASE), "<url>"),
    (re.compile(r"\"[^\"]*\"|'[^']*'|`[^`]*`|“[^”]*”"), "<value>"),
    (re.compile(r"\b[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}\b", re.IGNORECASE), "<id>"),
    (re.compile(r"\b[a-z]{2,8}_[0-9a-z]*\d[0-9a-z]*\b", re.IGNORECASE), "<id>"),
    (re.compile(r"\b\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(?:\.\d+)?(?:Z|[+-]\d\d:?\d\d)?"), "<time>"),
    (re.compile(r"\b\d{1,3}(?:\.\d{1,3}){3}(?::\d+)?\b"), "<address>"),
    (re.compile(r"\[[0-9a-f:]*:[0-9a-f:]+\](?::\d+)?", re.IGNORECASE), "<address>"),
    (re.compile(r"\b(?=[0-9a-f]*\d)(?=[0-9a-f]*[a-f])[0-9a-f]{7,}\b", re.IGNORECASE), "<id>"),
    (re.compile(r"(?<![\w.])/[\w.-]+(?:/[\w.-]+)*"), "<path>"),
    (re.compile(r"\b\w+(?:/[\w.-]+)+"), "<path>"),
    (re.compile(r"(?<![\w<])[+-]?\d+(?:[.,]\d+)*(?:e[+-]?\d+)?", re.IGNORECASE), "<n>"),
)


@dataclass(frozen=True, slots=True)
class ErrorStats:
    """Errors that are alike.

    Attributes:
        error_type: Their family.
        code: The platform's code, or the class of errors born on this side.
        operation: The client's method.
        pattern: Their message, with a placeholder for whatever differs.
        count: How many there were.
        first_seen: When the first one came (UTC).
        last_seen: When the last one came (UTC).
        sample_message: The last one's message, on one line.
    """

    error_type: ErrorType
    code: str
    operation: str
    pattern: str
    count: int
    first_seen: datetime
    last_seen: datetime
    sample_message: str


_Key = tuple[str, str, str, str]


class ErrorAggregator(Observer):
    """Groups errors by family, code, operation and the shape of their message.

        errors = ErrorAggregator()
        client = ConfigClient("https://config.example.com", listeners=[errors])
        print(errors.table())

    Shared by threads. When there are too many groups, the one that was last seen longest ago goes.

    Args:
        max_groups: Groups kept.
        clock: Time; a `ManualClock` in tests.
    """

    wants_successes = False

    def __init__(self, max_groups: int = _GROUPS, *, clock: Clock | None = None) -> None:
        check_count(1, max_groups=max_groups)
        self._max_groups = max_groups
        self._clock: Clock = clock if clock is not None else SystemClock()
        self._lock = new_lock()
        self._groups: OrderedDict[_Key, ErrorStats] = OrderedDict()
        self._dropped = 0

    def __len__(self) -> int:
        return len(self._groups)

    def __repr__(self) -> str:
        return f"ErrorAggregator({len(self._groups)} of {self._max_groups} groups)"

    @property
    def dropped(self) -> int:
        """How many groups had to go to make room."""
        return self._dropped

    def ended(self, event: CallEvent) -> None:
        """Count a call's error, also where something stood in for the answer."""
        if event.error is not None:
            self.record(event.error, operation=event.call.operation)

    def record(self, error: BaseException, *, operation: str | None = None) -> None:
        """Count an error.

        Args:
            error: Any error.
            operation: What failed; left out, what the error says.
        """
        if operation is None:
            operation = (error.operation if isinstance(error, LLMConfigError) else None) or ""
        message = error.message if isinstance(error, LLMConfigError) else str(error)
        message = one_line(message, _MESSAGE_LENGTH)
        pattern, family, code = _pattern_of(error, message), error_type(error), code_of(error)
        key = (family, code, operation, pattern)
        now = datetime.fromtimestamp(self._clock.time(), UTC)
        with self._lock:
            known = self._groups.get(key)
            if known is None:
                self._groups[key] = ErrorStats(family, code, operation, pattern, 1, now, now, message)
            else:
                self._groups[key] = dataclasses.replace(
                    known, count=known.count + 1, last_seen=max(now, known.last_seen), sample_message=message
                )
            self._groups.move_to_end(key)
            if len(self._groups) > self._max_groups:
                self._groups.popitem(last=False)
                self._dropped += 1

    def rows(self) -> list[ErrorStats]:
        """List the groups, the largest first."""
        with self._lock:
            groups = list(self._groups.values())
        return sorted(groups, key=lambda stats: (-stats.count, stats.first_seen, stats.pattern))

    def to_json(self, *, indent: int | None = None) -> str:
        """Write the groups as a JSON list of objects, times in ISO 8601.

        Args:
            indent: Spaces a level; left out, one line.
        """
        return json.dumps([_plain(stats) for stats in self.rows()], indent=indent, ensure_ascii=False)

    def table(self) -> str:
        """Write the groups as a table of plain text, one line each under a heading."""
        heading = ("count", "type", "code", "operation", "first seen", "last seen", "sample message")
        lines = [heading, *(_cells(stats) for stats in self.rows())]
        widths = [max(len(line[column]) for line in lines) for column in range(len(heading))]
        return "\n".join(
            "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
            for line in lines
        )

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            self._groups.clear()
            self._dropped = 0

    def collector(self) -> Collector:
        """Make a collector for a `prometheus_client` registry; needs the extra `prometheus`.

        Its gauge `llm_config_error_group_size` has the labels `error_type`, `code`, `operation`, `pattern`.
        """
        from prometheus_client.core import GaugeMetricFamily  # noqa: PLC0415  # an extra
        from prometheus_client.registry import Collector  # noqa: PLC0415  # an extra

        rows: Callable[[], list[ErrorStats]] = self.rows

        class Groups(Collector):
            """The groups, as they are at the moment of the scrape."""

            def collect(self) -> Iterator[GaugeMetricFamily]:
                """Yield one gauge with a series a group."""
                labels = ("error_type", "code", "operation", "pattern")
                family = GaugeMetricFamily(
                    "llm_config_error_group_size",
                    "Errors that are alike, since the group was made.",
                    labels=labels,
                )
                sizes = dict[tuple[str, str, str, str], int]()
                for stats in rows():
                    pattern = stats.pattern[:_LABEL_LENGTH]
                    values = (str(stats.error_type), stats.code, stats.operation, pattern)
                    sizes[values] = sizes.get(values, 0) + stats.count
                for values, size in sizes.items():
                    family.add_metric(values, size)
                yield family

        return Groups()


def _pattern_of(error: BaseException, message: str) -> str:
    if isinstance(error, LLMConfigError):
        for name, substitute in ((error.namespace, "<namespace>"), (error.key, "<key>")):
            if name and len(name) >= _SHORTEST_NAME:
                message = re.sub(rf"(?<![\w/.-]){re.escape(name)}(?![\w/-])", substitute, message)
    for pattern, substitute in _SUBSTITUTES:
        message = pattern.sub(substitute, message)
    return message


def _plain(stats: ErrorStats) -> dict[str, Any]:
    plain = dataclasses.asdict(stats)
    plain["first_seen"] = stats.first_seen.isoformat()
    plain["last_seen"] = stats.last_seen.isoformat()
    return plain


def _cells(stats: ErrorStats) -> tuple[str, ...]:
    return (
        str(stats.count),
        stats.error_type,
        stats.code,
        stats.operation,
        stats.first_seen.isoformat(timespec="seconds"),
        stats.last_seen.isoformat(timespec="seconds"),
        stats.sample_message,
    )
