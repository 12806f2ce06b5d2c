"""The server's cache, looked into and emptied. Reads of configs go past it where it fails; these do not."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from llm_config_mock_server.messages import Reply, json_reply
from llm_config_mock_server.server_cache import CacheError, cache_key
from llm_config_mock_server.storage import Address
from llm_config_sdk.contract import REDACTED_PLACEHOLDER, key_problem, namespace_problem

from .names import environment_of
from .routing import API, Route

if TYPE_CHECKING:
    from .visit import Visit


def _entry(visit: Visit) -> Reply:
    visit.need("cache:manage", "cache/entries")
    namespace, key = visit.arguments
    address = Address(namespace, key, environment_of(visit))
    name = cache_key(address)
    problem = namespace_problem(namespace) or key_problem(key)
    if problem is not None:
        raise CacheError("InvalidKey", f"Invalid cache key: {problem}")
    hit = visit.platform.cache.get(address)
    return json_reply(
        200,
        {
            "key": name,
            "tier": hit.tier,
            "version": hit.record.version,
            "etag": hit.record.etag,
            "secret": hit.record.secret,
            "value": REDACTED_PLACEHOLDER if hit.record.secret else hit.record.value,
        },
    )


def _clear(visit: Visit) -> Reply:
    visit.need("cache:manage", "cache")
    with visit.platform.audit.recording(visit.subject("cache.clear", "cache"), visit.call.at):
        count = visit.platform.cache.clear()
    return json_reply(200, {"cleared": count})


_CACHE: Final = (*API, "cache")
ROUTES: Final = (
    Route("cache", _CACHE, {"DELETE": _clear}),
    Route("cache entry", (*_CACHE, "entries", None, None), {"GET": _entry}),
)
