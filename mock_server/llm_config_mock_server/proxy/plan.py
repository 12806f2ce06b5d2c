"""The plan: what is wrong with the wire now, whom it strikes, and what has passed."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING, Final

from .trouble import OF_EXCHANGES, Kind, Side, Trouble

if TYPE_CHECKING:
    import ssl

    from llm_config_mock_server.randomness import Randomness

    from .certificates import Certificates

READ_BYTES: Final = 65_536  # at once
CONNECT_SECONDS: Final = 5.0  # how long the target may take to accept


class Plan:
    """What is wrong with the wire, and what has passed over it; shared with the proxy's thread."""

    def __init__(
        self,
        target: tuple[str, int],
        randomness: Randomness,
        certificates: Certificates | None,
        target_ssl: ssl.SSLContext | None,
    ) -> None:
        self._target = target
        self._target_ssl = target_ssl
        self._randomness = randomness
        self._certificates = certificates
        self._lock = threading.Lock()
        self._troubles: tuple[Trouble, ...] = ()
        self._exchanges = 0
        self.connections = 0
        self.passed: dict[Side, int] = {"request": 0, "response": 0}

    @property
    def troubles(self) -> tuple[Trouble, ...]:
        """What is wrong, newest first."""
        return self._troubles

    def arm(self, trouble: Trouble) -> None:
        """Let something go wrong."""
        with self._lock:
            self._troubles = (trouble, *self._troubles)

    def heal(self, trouble: Trouble | None) -> None:
        """Let something be well again; `None` is everything."""
        with self._lock:
            self._troubles = tuple(other for other in self._troubles if trouble not in {None, other})

    def current(self, kind: Kind) -> Trouble | None:
        """Return the trouble of a kind that counts, or `None`."""
        return next((trouble for trouble in self._troubles if trouble.kind is kind), None)

    def strike(self) -> tuple[Trouble | None, float]:
        """Begin an exchange: return what breaks it, or `None`, and how long its response is delayed."""
        self._exchanges += 1
        source = self._randomness.derive("exchange", self._exchanges)
        draw, jitter = source.random(), source.random()
        delay = 0.0
        slow = self.current(Kind.LATENCY)
        if slow is not None:
            slow.hits += 1
            delay = slow.seconds + slow.jitter * jitter
        for trouble in self._troubles:
            spent = trouble.times is not None and trouble.hits >= trouble.times
            if trouble.kind in OF_EXCHANGES and not spent and draw < trouble.probability:
                trouble.hits += 1
                return trouble, delay
        return None, delay

    def server_side(self) -> ssl.SSLContext | None:
        """Return what to shake hands with, or `None` for plain TCP."""
        if self._certificates is None:
            return None
        trouble = self.current(Kind.CERTIFICATE)
        if trouble is None:
            return self._certificates.context("valid")
        trouble.hits += 1
        return self._certificates.context(trouble.certificate)

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Connect to the target."""
        async with asyncio.timeout(CONNECT_SECONDS):
            return await asyncio.open_connection(*self._target, ssl=self._target_ssl, limit=READ_BYTES)
