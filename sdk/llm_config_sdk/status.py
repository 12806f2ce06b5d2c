"""How a client is: a snapshot of its endpoints, circuits, cache and budget."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Sequence

CircuitState = Literal["closed", "open", "half-open"]


@dataclass(frozen=True, slots=True)
class EndpointStatus:
    """One server, as this client sees it.

    Attributes:
        url: Its base URL.
        role: `primary`, or `backup`.
        circuit: Its circuit breaker's state; `closed` where there is none.
        is_ejected: Whether reads ask it last, because it failed.
        last_failure: The failure that opened its circuit, as a sentence; `None` while it is closed.
    """

    url: str
    role: Literal["primary", "backup"]
    circuit: CircuitState
    is_ejected: bool
    last_failure: str | None

    @property
    def is_healthy(self) -> bool:
        """Whether it is asked as usual."""
        return self.circuit == "closed" and not self.is_ejected


@dataclass(frozen=True, slots=True)
class ClientStatus:
    """A client, at one moment.

    Attributes:
        endpoints: Every server, the primary first.
        cached_entries: How many entries are kept in memory; `None` without a cache.
        snapshot_entries: How many entries are known from disk; `None` without a snapshot.
        retry_budget: What is left of the retry budget, as a share of the whole; `None` without retries.
        is_closed: Whether the client is closed.
    """

    endpoints: Sequence[EndpointStatus]
    cached_entries: int | None
    snapshot_entries: int | None
    retry_budget: float | None
    is_closed: bool

    @property
    def is_healthy(self) -> bool:
        """Whether the primary is asked as usual."""
        return self.endpoints[0].is_healthy and not self.is_closed
