"""One behaviour, three colours: tests that take `colour` run on sync, asyncio and trio."""

from __future__ import annotations

import asyncio
import inspect
from typing import TYPE_CHECKING, Any

import pytest
import trio

from llm_config_resilience import Event, ManualClock, Pipeline
from redis_server import redis_url  # noqa: F401  # a fixture
from resilience.crowds import Crowd

if TYPE_CHECKING:
    from collections.abc import Iterator


class Colour:
    """Calls a pipeline in one colour; async ones get an `async def` around a plain function."""

    def __init__(self, name: str) -> None:
        self.name = name

    @property
    def is_async(self) -> bool:
        return self.name != "sync"

    def call(self, pipeline: Pipeline, fn: Any, *args: Any, **kwargs: Any) -> Any:
        if not self.is_async:
            return pipeline.call(fn, *args, **kwargs)
        return self.run(pipeline.call_async, self.paint(fn), *args, **kwargs)

    def answer(self, pipeline: Pipeline, fn: Any, *args: Any, **kwargs: Any) -> Any:
        if not self.is_async:
            return pipeline.answer(fn, *args, **kwargs)
        return self.run(pipeline.answer_async, self.paint(fn), *args, **kwargs)

    def paint(self, fn: Any) -> Any:
        """Make a function of this colour of a plain one."""
        if not self.is_async:
            return fn

        async def painted(*args: Any, **kwargs: Any) -> Any:
            return fn(*args, **kwargs)

        return painted

    def run(self, fn: Any, *args: Any, **kwargs: Any) -> Any:
        """Run an async function in this colour's event loop."""

        async def main() -> Any:
            result = fn(*args, **kwargs)
            return await result if inspect.isawaitable(result) else result

        return trio.run(main) if self.name == "trio" else asyncio.run(main())


@pytest.fixture(params=["sync", "asyncio", "trio"])
def colour(request: pytest.FixtureRequest) -> Colour:
    return Colour(request.param)


@pytest.fixture(params=["asyncio", "trio"])
def loop(request: pytest.FixtureRequest) -> Colour:
    return Colour(request.param)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


class Happenings(list[Event]):
    """What happened inside of calls; how they ended lies in `ends`."""

    def __init__(self) -> None:
        super().__init__()
        self.ends: list[Event] = []

    def append(self, event: Event) -> None:
        if event.kind in {"failed", "succeeded", "cancelled"}:
            self.ends.append(event)
        else:
            super().append(event)


@pytest.fixture
def events() -> Happenings:
    return Happenings()


class Script:
    """A function that answers by a list, exceptions raised; its last line repeats."""

    def __init__(self, *lines: Any) -> None:
        self.lines = lines
        self.calls = 0
        self.args: list[Any] = []

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self.args.append(args)
        line = self.lines[min(self.calls, len(self.lines) - 1)]
        self.calls += 1
        if callable(line) and not isinstance(line, type):
            line = line()
        if isinstance(line, BaseException) or (isinstance(line, type) and issubclass(line, BaseException)):
            raise line
        return line


@pytest.fixture
def script() -> type[Script]:
    return Script


@pytest.fixture
def crowd(colour: Colour) -> Iterator[Crowd]:
    with Crowd(colour) as callers:
        yield callers
