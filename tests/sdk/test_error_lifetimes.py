"""An error that nobody keeps is gone at once: an outage fills no memory until the collector comes by.

Programs that switch the collector off, or freeze what they began with, have nothing else to free it.
"""

import asyncio
import gc
import socket
import weakref
from contextlib import contextmanager, nullcontext
from dataclasses import replace

import httpx
import httpx2
import pytest
from pydantic import BaseModel

from client_faces import SteppingClock
from llm_config_mock_server import error, garbage, hang, html, malformed, oversized, reset, truncate
from llm_config_resilience import RetryPolicy
from llm_config_sdk import (
    AsyncConfigClient,
    BreakerPolicy,
    ConfigClient,
    LLMConfigError,
    ResiliencePolicy,
)


class Settings(BaseModel):
    """What `bind` makes of the namespace."""

    model: str


STEPS = [
    error("NOT_FOUND"),
    error("SERVICE_UNAVAILABLE"),
    error("RATE_LIMIT_EXCEEDED", retry_after=120),
    html(502),
    malformed(),
    oversized(33 * 1024 * 1024),
    reset(),
    truncate(keep=5),
    garbage(),
    hang(),
]
CALLS = {
    "get_config": lambda client: client.get_config("app", "model"),
    "get_int": lambda client: client.get_int("app", "model"),
    "get_many": lambda client: client.get_many([("app", "model")]),
    "resolve": lambda client: client.resolve("app", "model"),
    "bind": lambda client: client.bind(Settings, "app"),
    "prefetch": lambda client: client.prefetch("app"),
    "list_configs": lambda client: client.list_configs("app"),
    "set_config": lambda client: client.set_config("app", "model", 1),
    "rollback": lambda client: client.rollback("app", "model", 1),
    "health_check": lambda client: client.health_check(),
}
WIRES = ["own httpx", "own httpx2", "injected httpx", "injected httpx2"]
POLICY = ResiliencePolicy(
    retry=RetryPolicy(max_attempts=2), breaker=BreakerPolicy(failure_threshold=1000), attempt_timeout=0.1
)


def options(wire, colour, policy):
    kind, family = wire.split()
    library = {"httpx": httpx, "httpx2": httpx2}[family]
    made = library.Client if colour == "sync" else library.AsyncClient
    return {
        "environment": "production",
        "clock": SteppingClock(),
        "resilience": policy,
        **({"http_client": made(trust_env=False)} if kind == "injected" else {"transport": family}),
    }


@contextmanager
def no_collector():
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def reference(failed):
    """Keep an error by nothing; of several calls at once, the first one's."""
    return weakref.ref(failed[0].error if isinstance(failed, list) else failed)


def fail_sync(client, call):
    try:
        return reference(call(client))
    except LLMConfigError as caught:
        return reference(caught)


async def fail_async(client, call):
    try:
        return reference(await call(client))
    except LLMConfigError as caught:
        return reference(caught)


def kept(server, wire, colour, policy, times=1):
    """Let each call fail, so many times; return those whose error was still there without its caller."""
    calls = [(name, call) for name, call in CALLS.items() for _ in range(times)]
    made = {"token": server.token("admin"), **options(wire, colour, policy)}
    injected = made.get("http_client")
    if colour == "sync":
        with injected or nullcontext(), ConfigClient(server.url, **made) as client, no_collector():
            return [name for name, call in calls if fail_sync(client, call)() is not None]

    async def main():
        async with injected or nullcontext(), AsyncConfigClient(server.url, **made) as client:
            with no_collector():
                return [name for name, call in calls if (await fail_async(client, call))() is not None]

    return asyncio.run(main())


@pytest.mark.parametrize("colour", ["sync", "async"])
@pytest.mark.parametrize("wire", WIRES)
@pytest.mark.parametrize("step", STEPS, ids=lambda step: step.name)
def test_an_error_goes_with_the_last_who_holds_it(server, step, wire, colour):
    with server.script("*", step, repeat="last"):
        assert kept(server, wire, colour, POLICY) == []


@pytest.mark.parametrize("colour", ["sync", "async"])
def test_so_does_one_of_a_circuit_that_refuses(server, colour):
    policy = replace(POLICY, breaker=BreakerPolicy(failure_threshold=1))
    with server.script("*", reset(), repeat="last"):
        assert kept(server, "own httpx", colour, policy, times=2) == []


def of_the_system():
    return sum(issubclass(type(each), OSError) for each in gc.get_objects())


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_so_does_what_the_system_said_of_a_host_that_refuses(host):
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        url = f"http://{host}:{nobody.getsockname()[1]}"
        with ConfigClient(url, **options("own httpx", "sync", POLICY)) as client, no_collector():
            before = of_the_system()
            assert fail_sync(client, CALLS["get_config"])() is None
            assert of_the_system() == before
