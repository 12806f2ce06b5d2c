"""The order lint: known mistakes in the order of a pipeline's layers."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from llm_config_resilience.strategies.strategy import Strategy

#: (role, role, why the first must not be outside the second)
_WRONG = (
    (
        "breaker",
        "retry",
        "one call counts once however often it fails, and the retries pass an open circuit by",
    ),
    ("retry", "fallback", "the fallback's answer ends the first attempt, so nothing is ever retried"),
    ("retry", "cache", "a stale entry ends the first attempt, so nothing is ever retried"),
    (
        "failover",
        "fallback",
        "the fallback's answer stands in for the first target, so no other is ever tried",
    ),
    ("cache", "fallback", "errors never reach the cache, so it never serves a stale entry"),
    (
        "hedge",
        "single_flight",
        "hedges of one call join its own flight, so none is ever made",
    ),
    ("bulkhead", "retry", "a call holds its place while it waits for the next attempt"),
)


def lint(layers: Sequence[Strategy]) -> Iterator[str]:
    """Yield one sentence a mistake.

    Args:
        layers: Strategies, outermost first.
    """
    roles = [layer.role for layer in layers]
    for outer, inner, why in _WRONG:
        if outer in roles and inner in roles[roles.index(outer) + 1 :]:
            yield f"{outer} is outside {inner}: {why}"
    if roles.count("retry") > 1:
        yield "there are two retries: the outer one lets pass what the inner one gave up"
    if "chaos" in roles and roles[-1] != "chaos":
        yield "chaos is not innermost: what is inside it is not tested by it"
