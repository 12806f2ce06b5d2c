"""How the clients look to a type checker: checked by mypy and pyright, never run."""

from typing import Any, assert_type

from pydantic import BaseModel, SecretStr

from llm_config_resilience import Event, ManualClock, RetryPolicy
from llm_config_sdk import (
    AsyncConfigClient,
    BreakerPolicy,
    CachePolicy,
    ConfigClient,
    ConfigEntry,
    Environment,
    Health,
    HistoryEntry,
    ResiliencePolicy,
    StackTransport,
)


class Model(BaseModel):
    name: str


def note(event: Event) -> None:
    """A listener."""


def construction() -> None:
    """Every argument takes what the contract says."""
    ConfigClient()
    ConfigClient("http://a", token="t", environment="prod", user="ann")
    ConfigClient(
        "http://a",
        token=SecretStr("t"),
        environment=Environment.EDGE,
        backups=["http://b"],
        resilience=ResiliencePolicy(retry=RetryPolicy.aggressive(), breaker=BreakerPolicy(timeout=5)),
        cache=CachePolicy(ttl=5),
        headers={"X-Forwarded-Proto": "https"},
        timeout=2,
        fallback={("app", "n"): 1},
        transport="httpx2",
        max_in_flight=10,
        listeners=[note],
        clock=ManualClock(),
    )
    ConfigClient("http://a", resilience=None, cache=None)
    StackTransport(max_in_flight=5, verify=False, family="httpx2")
    ConfigClient("http://a", transport="carrier pigeon")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def reading(client: ConfigClient) -> None:
    """What the sync client returns."""
    assert_type(client.get_config("app", "n"), ConfigEntry)
    assert_type(client.get_config("app", "n", default=None, fallback=1, fresh=True, timeout=1), ConfigEntry)
    assert_type(client.get_value("app", "n"), Any)
    assert_type(client.get_value("app", "n", Model), Model)
    assert_type(client.get_value("app", "n", Model, default=None), Model | None)
    assert_type(client.get_value("app", "n", int, default="none"), int | str)
    assert_type(client.get_value("app", "n", list[int]), list[int])
    assert_type(client.get_str("app", "n"), str)
    assert_type(client.get_str("app", "n", default=None), str | None)
    assert_type(client.get_str("app", "n", fallback="x"), str)
    assert_type(client.get_int("app", "n", env="prod"), int)
    assert_type(client.get_int("app", "n", default="x"), int | str)
    assert_type(client.get_float("app", "n"), float)
    assert_type(client.get_float("app", "n", default=None), float | None)
    assert_type(client.get_bool("app", "n"), bool)
    assert_type(client.get_bool("app", "n", default=False), bool)
    assert_type(client.get_json("app", "n"), Any)
    assert_type(client.resolve("app", "n"), ConfigEntry)
    assert_type(client.list_configs("app"), list[ConfigEntry])
    assert_type(client.get_history("app", "n"), list[HistoryEntry])
    assert_type(client.health_check(), Health)
    assert_type(client.request("GET", "/health"), Any)
    assert_type(client.with_options(timeout=5, cache=None), ConfigClient)
    client.get_str("app", "n", fallback=1)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue, reportArgumentType]


def writing(client: ConfigClient, entry: ConfigEntry) -> None:
    """What may be written, and on which condition."""
    assert_type(client.set_config("app", "n", {"a": [1, None]}), ConfigEntry)
    client.set_config("app", "n", SecretStr("s"), expected_version=entry, idempotency_key="k", user="ann")
    client.set_config("app", "n", "s", secret=True, expected_version=3)
    client.set_config("app", "n", 1, expected_version='"id.3"')
    assert_type(client.rollback("app", "n", 3), ConfigEntry)
    client.delete_config("app", "n", env=Environment.BASE)


async def reading_async(client: AsyncConfigClient) -> None:
    """The async client returns the same, awaited."""
    async with client as entered:
        assert_type(entered, AsyncConfigClient)
        assert_type(await client.get_config("app", "n"), ConfigEntry)
        assert_type(await client.get_value("app", "n", Model, default=None), Model | None)
        assert_type(await client.get_str("app", "n", default=None), str | None)
        assert_type(await client.get_int("app", "n"), int)
        assert_type(await client.list_configs("app"), list[ConfigEntry])
        assert_type(await client.set_config("app", "n", 1), ConfigEntry)
        assert_type(await client.health_check(), Health)
        assert_type(client.with_options(timeout=5), AsyncConfigClient)
