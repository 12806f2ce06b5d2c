"""Lets a client tell its observers of calls, where its core does not do so itself yet."""

import inspect
from typing import Any

from llm_config_resilience import SystemClock
from llm_config_sdk.core import Core
from llm_config_sdk.observability.events import Observers


def observed(  # noqa: C901, PLR0915  # one closure a place of the core
    client: Any, *listeners: Any, clock: Any = None
) -> Any:
    """Wire a client's core to observers; does nothing where the core knows them."""
    if hasattr(Core, "observe"):
        return client
    core = client._core
    observers = Observers.of(listeners, clock or SystemClock())
    assert observers is not None
    observations: dict[str, Any] = {}
    requests: dict[int, Any] = {}
    begin, read, blame, finish, settle, cached = (
        core.begin,
        core.read,
        core.blame,
        core.finish,
        core.settle,
        core.cached,
    )

    def begin_seen(endpoint: Any, call: Any) -> Any:
        attempt = begin(endpoint, call)
        observation = observations[call.request_id]
        requests[id(attempt)] = observation, observation.sending(endpoint, attempt.request.url)
        attempt.request.headers.update(requests[id(attempt)][1].headers)
        return attempt

    def read_seen(attempt: Any, reply: Any) -> Any:
        value = read(attempt, reply)
        observation, request = requests.pop(id(attempt))
        observation.answered(request, reply.status)
        return value

    def blame_seen(error: Any, attempt: Any) -> None:
        blame(error, attempt)
        observation, request = requests.pop(id(attempt))
        observation.answered(request, error.status, error)

    def finish_seen(plan: Any, answer: Any) -> Any:
        value = finish(plan, answer)
        source = "cache" if answer.source == "cache" else "server"
        url = getattr(answer.target, "url", None)
        observations[plan.call.request_id].succeeded(value, source=source, endpoint=url)
        return value

    def settle_seen(plan: Any, error: Exception) -> Any:
        observation = observations[plan.call.request_id]
        try:
            value = settle(plan, error)
        except Exception as raised:
            observation.failed(raised)
            raise
        observation.succeeded(value)
        return value

    def cached_seen(*args: Any) -> Any:
        entry = cached(*args)
        if entry is not None:
            observers.cached("get_config", entry)
        return entry

    core.begin, core.read, core.blame = begin_seen, read_seen, blame_seen
    core.finish, core.settle, core.cached = finish_seen, settle_seen, cached_seen
    run = client._run

    def run_seen(plan: Any) -> Any:
        observations[plan.call.request_id] = observation = observers.begin(plan.call)
        try:
            return run(plan)
        finally:
            observation.close()

    async def run_seen_async(plan: Any) -> Any:
        observations[plan.call.request_id] = observation = observers.begin(plan.call)
        try:
            return await run(plan)
        finally:
            observation.close()

    client._run = run_seen_async if inspect.iscoroutinefunction(run) else run_seen
    return client
