"""Troubles: what can be wrong with the wire, and with which figures."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum, auto
from typing import TYPE_CHECKING, Final, Literal, Self

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

Side = Literal["request", "response"]
Certificate = Literal["valid", "expired", "wrong-host", "untrusted"]


class Kind(Enum):
    """What a trouble does to the bytes."""

    REFUSE = auto()
    HANG = auto()
    RESET = auto()
    CUT = auto()
    HALF_CLOSE = auto()
    LATENCY = auto()
    BANDWIDTH = auto()
    BLACKHOLE = auto()
    CERTIFICATE = auto()


OF_EXCHANGES: Final = frozenset({Kind.HANG, Kind.RESET, Kind.CUT, Kind.HALF_CLOSE})


@dataclass(eq=False)
class Trouble:
    """Something that is wrong with the wire, until it is healed.

    As a context manager (`with` and `async with` alike) it is healed at the end of the block.
    """

    healed: Callable[[Trouble], None] = field(repr=False)
    kind: Kind
    after: int = 0
    of: Side = "response"
    seconds: float = 0.0
    jitter: float = 0.0
    rate: float = 0.0
    certificate: Certificate = "valid"
    times: int | None = None
    probability: float = 1.0
    hits: int = 0
    """How many exchanges it has struck (or, for certificates, handshakes)."""

    def heal(self) -> None:
        """Make it well again; once more changes nothing."""
        self.healed(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.heal()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.heal()


def check(trouble: Trouble) -> None:
    """Refuse figures outside their ranges.

    Raises:
        ValueError: A figure is outside its range.
    """
    for name in ("after", "seconds", "jitter", "rate"):
        if getattr(trouble, name) < 0:
            raise ValueError(f"{name} must not be negative, as {getattr(trouble, name)} is")
    if trouble.times is not None and trouble.times < 1:
        raise ValueError(f"times must be at least 1, not {trouble.times}")
    if not 0.0 <= trouble.probability <= 1.0:
        raise ValueError(f"probability must be between 0 and 1, not {trouble.probability}")
    if trouble.of not in {"request", "response"}:
        raise ValueError(f"of must be 'request' or 'response', not {trouble.of!r}")
