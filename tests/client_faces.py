"""One scenario, every face of the client: sync, asyncio and trio, own connections and injected clients.

A test says what a caller does once, in plain calls; a `Driver` makes them on the face in hand.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import anyio.lowlevel
import httpx
import httpx2
from anyio.from_thread import start_blocking_portal

from llm_config_resilience import ManualClock, SystemClock
from llm_config_sdk import AsyncConfigClient, ConfigClient

if TYPE_CHECKING:
    from contextlib import ExitStack

OWN = ["sync", "asyncio", "trio"]
WIRES = ["own httpx2", "injected httpx", "injected httpx2"]
ALL = [*OWN, *(f"{colour}, {wire}" for wire in WIRES for colour in ("sync", "asyncio"))]


class SteppingClock(ManualClock):
    """Time that moves by what is slept on it, and by nothing else: real sockets take none."""

    async def sleep_async(self, seconds: float) -> None:
        self.sleep(seconds)
        await anyio.lowlevel.checkpoint()

    def expiring(self, seconds: float) -> Any:
        del seconds  # the socket's own deadline holds
        return SystemClock().expiring(float("inf"))


class Driver:
    """A client whose methods are called plainly, whichever its colour."""

    def __init__(self, client: Any, portal: Any) -> None:
        self.client = client
        self._portal = portal

    def __getattr__(self, name: str) -> Any:
        member = getattr(self.client, name)
        if name == "with_options":
            return lambda **options: Driver(member(**options), self._portal)
        if inspect.iscoroutinefunction(member):
            return lambda *args, **kwargs: self._portal.call(partial(member, *args, **kwargs))
        return member

    def close(self) -> None:
        if self._portal is None:
            self.client.close()
        else:
            self._portal.call(self.client.aclose)


@dataclass
class Face:
    """A colour and a wire, with what has to be closed in the end."""

    name: str
    stack: ExitStack
    portal: Any = None
    headers: dict[str, str] = field(default_factory=dict)  # of every client, beside its own

    def __post_init__(self) -> None:
        self.colour, _, self.wire = self.name.partition(", ")
        if self.is_async:
            self.portal = self.stack.enter_context(start_blocking_portal(backend=self.colour))

    @property
    def is_async(self) -> bool:
        return self.colour != "sync"

    @property
    def is_injected(self) -> bool:
        return self.wire.startswith("injected")

    def client(self, *args: Any, **options: Any) -> Driver:
        """Make a client on this face, closed at the end of the test."""
        if self.headers and isinstance(options.get("headers", {}), dict):
            options["headers"] = self.headers | options.get("headers", {})
        if self.is_injected and "http_client" not in options:
            options["http_client"] = self.http_client()
        elif self.wire:
            options.setdefault("transport", "httpx2")
        client = (AsyncConfigClient if self.is_async else ConfigClient)(*args, **options)
        driver = Driver(client, self.portal)
        self.stack.callback(driver.close)
        return driver

    def http_client(self, **options: Any) -> Any:
        """Make a client of the wire's library, closed at the end of the test."""
        library = httpx2 if self.wire.endswith("httpx2") else httpx
        options.setdefault("trust_env", False)
        if not self.is_async:
            return self.stack.enter_context(library.Client(**options))
        client = self.portal.call(partial(library.AsyncClient, **options))
        self.stack.callback(lambda: self.portal.call(client.aclose))
        return client

    def run(self, sync: Any, asynchronous: Any, *args: Any, **kwargs: Any) -> Any:
        """Call the function of this face's colour."""
        if self.is_async:
            return self.portal.call(partial(asynchronous, *args, **kwargs))
        return sync(*args, **kwargs)
