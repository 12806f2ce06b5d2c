"""The rate limit of a caller, with its headers."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from llm_config_sdk.contract import ErrorCode

from .refusals import RefusedError

if TYPE_CHECKING:
    from llm_config_mock_server.core import Call, Platform
    from llm_config_mock_server.messages import Header
    from llm_config_mock_server.rbac import Principal


def spend(platform: Platform, call: Call, principal: Principal) -> tuple[Header, ...]:
    """Count a request of a caller and return the headers that say what is left.

    Raises:
        RefusedError: There is nothing left.
    """
    if platform.limiter is None:
        return ()
    verdict = platform.limiter.take(principal.user, call.at.monotonic)
    headers = (
        ("x-ratelimit-limit", str(platform.limiter.limits.burst)),
        ("x-ratelimit-remaining", str(verdict.remaining)),
        ("x-ratelimit-reset", str(math.ceil(call.at.wall + verdict.reset_after))),
    )
    if verdict.allowed:
        return headers
    seconds = max(1, math.ceil(verdict.retry_after))
    raise RefusedError(
        ErrorCode.RATE_LIMIT_EXCEEDED,
        "Rate limit exceeded. Please try again later",
        details={"retry_after": seconds, "limit": platform.limiter.limits.burst},
        headers=(*headers, ("retry-after", str(seconds))),
    )
