"""Where the demo plays: two reference servers, and a client of each kind to run the same lines with.

A step's lines are Python as a user would write it for `ConfigClient`. What is shown is what runs: for
`AsyncConfigClient` the same lines get their `async` and `await`, and both are compiled and executed here.
"""

from __future__ import annotations

import ast
import asyncio
import contextlib
import logging
import os
import re
import sys
import tempfile
import time
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FunctionType
from typing import TYPE_CHECKING, Any, Final, Literal

import llm_config_sdk
from llm_config_resilience import RetryPolicy
from llm_config_sdk.settings import ENV_PREFIX

if TYPE_CHECKING:
    from collections.abc import Generator

    from llm_config_mock_server import MockServer
    from llm_config_resilience import Event

Face = Literal["sync", "async"]
FACES: Final[tuple[Face, ...]] = ("sync", "async")

SEED: Final = 2026  # shared, so that one token is good for both servers, as with a replicated platform
ENVIRONMENT: Final = "production"
_REPLICATED: Final = {"model": "gpt-4o", "temperature": 0.7}  # what both servers hold from the beginning
_ASYNC_WORDS: Final = (
    (re.compile(r"\bwith ConfigClient\("), "async with ConfigClient("),
    (re.compile(r"\bConfigClient\("), "AsyncConfigClient("),
    (re.compile(r"\bfor (\w+) in (\w*client)\.watch\("), r"async for \1 in \2.watch("),
    (re.compile(r"\b(\w*client)\.(?!watch\()(\w+\()"), r"await \1.\2"),
)


@dataclass(frozen=True, slots=True)
class Ran:
    """What came of a step's lines on one kind of client.

    Attributes:
        face: Which client ran them.
        values: Every variable, by name.
        printed: What they printed, line by line.
        error: The exception that was being handled when something was printed last.
        raised: The exception that nobody handled.
        seconds: How long it took.
        primary: The requests that the primary saw, as `GET 200`.
        backup: The requests that the backup saw.
        circuits: How the circuits of `client` are afterwards, as `primary open`.
        warnings: What the SDK logged as a warning or worse.
    """

    face: Face
    values: dict[str, Any]
    printed: tuple[str, ...]
    error: Any
    raised: BaseException | None
    seconds: float
    primary: tuple[str, ...]
    backup: tuple[str, ...]
    circuits: tuple[str, ...]
    warnings: tuple[str, ...]

    def __getitem__(self, name: str) -> Any:
        """Return a variable."""
        return self.values[name]


@dataclass(slots=True)
class _Troupe:
    """One kind of client: its variables, which live as long as the demo, and what it noticed."""

    face: Face
    variables: dict[str, Any]
    printed: list[str] = field(default_factory=list[str])
    error: BaseException | None = None
    due: dict[str, float] = field(default_factory=dict[str, float])


class Stage:
    """The servers, and whoever plays before them.

    Args:
        primary: The server that is asked first; started.
        backup: The other one; started, with the same seed.
        directory: Where the clients may keep what they know.
    """

    def __init__(self, primary: MockServer, backup: MockServer, directory: Path) -> None:
        self.primary = primary
        self.backup = backup
        self.servers: tuple[MockServer, MockServer] = (primary, backup)
        self._directory = directory
        self._runner = asyncio.Runner()
        self._logged: list[str] = []
        self._troupes = {face: self._troupe(face) for face in FACES}
        for server in self.servers:
            for key, value in _REPLICATED.items():
                server.put("app/llm", key, value, env=ENVIRONMENT)

    def play(self, code: str, face: Face) -> Ran:
        """Run lines with one kind of client, and note what came of it and what the servers saw."""
        troupe = self._troupes[face]
        troupe.printed, troupe.error = [], None
        self._logged.clear()
        self.primary.journal.clear()
        self.backup.journal.clear()
        raised: BaseException | None = None
        began = time.perf_counter()
        try:
            self._run(as_written_for(face, code), troupe)
        except Exception as error:  # noqa: BLE001  # whatever it is, the step has failed and the demo goes on
            raised = error
        return Ran(
            face=face,
            values=dict(troupe.variables),
            printed=tuple(troupe.printed),
            error=troupe.error,
            raised=raised,
            seconds=time.perf_counter() - began,
            primary=_seen(self.primary),
            backup=_seen(self.backup),
            circuits=_circuits(troupe),
            warnings=tuple(self._logged),
        )

    def heard(self, record: logging.LogRecord) -> None:
        """Keep what the SDK logs."""
        self._logged.append(record.getMessage())

    def kill(self, *servers: MockServer) -> None:
        """Take servers off the network: connections are refused from now on."""
        for server in servers:
            server.stop()

    def bring_back(self) -> None:
        """Start both servers, and wait until every client may ask them again: no longer than that."""
        for server in self.servers:
            server.start()
        due = max((due for troupe in self._troupes.values() for due in troupe.due.values()), default=0.0)
        time.sleep(max(0.0, due - time.monotonic()))

    def close(self) -> None:
        """Close the clients and the event loop."""
        with self._runner:
            for face in FACES:
                client = self._troupes[face].variables.get("client")
                if client is not None:
                    self._run(
                        "client.close()" if face == "sync" else "await client.aclose()", self._troupes[face]
                    )

    def _run(self, source: str, troupe: _Troupe) -> None:
        code = compile(source, f"<the demo, {troupe.face}>", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        running = FunctionType(code, troupe.variables)()
        if running is not None:
            self._runner.run(running)

    def _troupe(self, face: Face) -> _Troupe:
        troupe = _Troupe(face, {})

        def note(*things: object) -> None:
            troupe.printed.append(" ".join(map(str, things)))
            troupe.error = sys.exception() or troupe.error

        def on_event(event: Event) -> None:
            self._notice(troupe, event)

        troupe.variables.update({name: getattr(llm_config_sdk, name) for name in llm_config_sdk.__all__})
        troupe.variables.update(
            RetryPolicy=RetryPolicy,
            primary=self.primary.url,
            backup=self.backup.url,
            token=self.primary.token("admin"),
            viewer_token=self.primary.token("viewer"),
            snapshot_path=str(self._directory / f"{face}.json"),
            on_event=on_event,
            print=note,
        )
        self.backup.token("admin")  # known there too, as the servers share their seed
        return troupe

    def _notice(self, troupe: _Troupe, event: Event) -> None:
        """Note until when an endpoint is spared; how it is now, the client itself tells."""
        if event.kind == "opened" and event.delay is not None:
            troupe.due[f"circuit {event.details.get('breaker')}"] = event.time + event.delay
        if event.kind in {"failed", "failed_over", "ejected", "served_stale"}:
            # Each failure puts the endpoint last for as long as the policy says.
            policy = troupe.variables.get("policy")
            if policy is not None:
                troupe.due["failback"] = event.time + policy.failback_after


def as_written_for(face: Face, code: str) -> str:
    """Write a step's lines for one kind of client."""
    if face == "async":
        for pattern, replacement in _ASYNC_WORDS:
            code = pattern.sub(replacement, code)
    return code


@contextmanager
def curtain() -> Generator[Stage, None, None]:
    """Set the stage: start the servers, keep the surroundings out, and clear everything away at the end."""
    from llm_config_mock_server import MockServer  # noqa: PLC0415  # only the demo needs the server

    with ExitStack() as stack:
        stack.enter_context(_undisturbed())
        primary = stack.enter_context(MockServer(seed=SEED))
        backup = stack.enter_context(MockServer(seed=SEED))
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        stage = stack.enter_context(contextlib.closing(Stage(primary, backup, directory)))
        stack.enter_context(_listening(stage))
        yield stage


@contextmanager
def _undisturbed() -> Generator[None, None, None]:
    """Hide the settings of whoever runs the demo: it is about servers of its own."""
    hidden = {name: os.environ.pop(name) for name in list(os.environ) if name.startswith(ENV_PREFIX)}
    try:
        yield
    finally:
        os.environ.update(hidden)


class _Ear(logging.Handler):
    """Hands records to the stage, and to nobody else."""

    def __init__(self, stage: Stage) -> None:
        super().__init__(logging.WARNING)
        self._stage = stage

    def emit(self, record: logging.LogRecord) -> None:
        self._stage.heard(record)


@contextmanager
def _listening(stage: Stage) -> Generator[None, None, None]:
    """Keep the SDK's log off the terminal: the story tells it, and checks that it was written."""
    logger = logging.getLogger("llm_config_sdk")
    ear, propagates = _Ear(stage), logger.propagate
    logger.addHandler(ear)
    logger.propagate = False
    try:
        yield
    finally:
        logger.propagate = propagates
        logger.removeHandler(ear)


def _seen(server: MockServer) -> tuple[str, ...]:
    return tuple(f"{entry.method} {entry.status}" for entry in server.journal)


def _circuits(troupe: _Troupe) -> tuple[str, ...]:
    client = troupe.variables.get("client")
    return tuple(f"{each.role} {each.circuit}" for each in client.endpoints) if client is not None else ()
