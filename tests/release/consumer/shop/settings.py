"""What the shop reads from the platform."""

from typing import assert_type

from pydantic import BaseModel, SecretStr

from llm_config_resilience import CircuitBreaker, Fallback, Pipeline, Retry, RetryPolicy
from llm_config_sdk import (
    AsyncConfigClient,
    BreakerPolicy,
    CachePolicy,
    ConfigClient,
    ConfigEntry,
    LLMConfigError,
    NotFoundError,
    ResiliencePolicy,
    SnapshotPolicy,
)


class Writing(BaseModel):
    """How texts are written."""

    model: str
    temperature: float = 1.0
    api_key: SecretStr = SecretStr("")


def connect(url: str) -> ConfigClient:
    """Make the client that lives as long as the shop."""
    return ConfigClient(
        url,
        token=lambda: "token",
        backups=["https://backup.example.com"],
        resilience=ResiliencePolicy(retry=RetryPolicy.aggressive(), breaker=BreakerPolicy(timeout=15.0)),
        cache=CachePolicy(ttl=10.0),
        snapshot=SnapshotPolicy(),
    )


def writing(client: ConfigClient) -> Writing:
    """Read the namespace as a model."""
    return assert_type(client.bind(Writing, "shop/writing"), Writing)


def limit(client: ConfigClient) -> int:
    """Read one value, with its type."""
    entry = assert_type(client.get_config("shop/writing", "limit"), ConfigEntry)
    try:
        return assert_type(client.get_int("shop/writing", "limit", default=512), int)
    except NotFoundError as error:
        assert_type(error.hint, str)
        return entry.version
    except LLMConfigError as error:
        assert_type(error.is_retriable, bool)
        assert_type(error.retry_after, float | None)
        raise


async def limits(client: AsyncConfigClient) -> list[int]:
    """Read several in async."""
    async with client:
        outcomes = await client.get_many([("shop/writing", "limit"), ("shop/writing", "burst")])
    return [outcome.unwrap().version for outcome in outcomes if outcome.ok]


prices = Pipeline(Fallback(0.0), Retry(RetryPolicy(max_attempts=2)), CircuitBreaker(name="prices"))


@prices
def price(article: str) -> float:
    """Ask for a price."""
    return float(len(article))


def total(articles: list[str]) -> float:
    """A decorated function keeps its signature."""
    return sum(assert_type(price(article), float) for article in articles)


def mistakes(client: ConfigClient) -> None:
    """What a type checker has to find out."""
    client.get_int("shop/writing", 7)  # type: ignore[call-overload]
    price(7)  # type: ignore[arg-type]
    ConfigClient(timeout="soon")  # type: ignore[arg-type]
    _ = client.modell  # type: ignore[attr-defined]
