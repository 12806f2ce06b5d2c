"""The demo's story: steps as data, each with the lines that are run and the claims that are checked.

A new step is one more `Step` in `STEPS`. Its lines run twice, with `ConfigClient` and, their `await`s added,
with `AsyncConfigClient`; variables live on from step to step. `check` is given what came of each run.
"""

from __future__ import annotations

import contextlib
import textwrap
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from llm_config_sdk.cli.checks import Check, equal, is_a, true
from llm_config_sdk.cli.stage import ENVIRONMENT, FACES
from llm_config_sdk.errors import (
    AllEndpointsFailedError,
    ConnectFailedError,
    InvalidKeyError,
    NotFoundError,
    PermissionDeniedError,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from llm_config_sdk.cli.stage import Ran, Stage


def _nothing(stage: Stage) -> None:
    del stage


@dataclass(frozen=True, slots=True)
class Step:
    """One step of the story.

    Attributes:
        title: Its heading.
        says: What happens, in a sentence or two.
        code: The lines that are shown and run.
        check: What is claimed of one run.
        before: What is done to the servers before each run.
    """

    title: str
    says: str
    code: str
    check: Callable[[Ran, Stage], Iterable[Check]]
    before: Callable[[Stage], None] = _nothing


@dataclass(frozen=True, slots=True)
class Played:
    """A step that was played.

    Attributes:
        number: From 1.
        step: The step.
        runs: What came of it, sync and async.
        checks: What was claimed of each run, in the same order.
    """

    number: int
    step: Step
    runs: tuple[Ran, ...]
    checks: tuple[tuple[Check, ...], ...]

    @property
    def holds(self) -> bool:
        """Whether every claim holds."""
        return all(check.holds for checks in self.checks for check in checks)

    @property
    def seconds(self) -> float:
        """How long the lines ran, both ways."""
        return sum(run.seconds for run in self.runs)


def play(step: Step, number: int, stage: Stage) -> Played:
    """Play one step, sync and async."""
    runs: list[Ran] = []
    checks: list[tuple[Check, ...]] = []
    for face in FACES:
        step.before(stage)
        run = stage.play(step.code, face)
        runs.append(run)
        checks.append(_judge(step, run, stage))
    return Played(number, step, tuple(runs), tuple(checks))


def _judge(step: Step, run: Ran, stage: Stage) -> tuple[Check, ...]:
    if run.raised is not None:
        return (equal("the lines run to their end", None, run.raised),)
    try:
        return tuple(step.check(run, stage))
    except Exception as error:  # noqa: BLE001  # what cannot even be checked does not hold
        return (equal("what is claimed can be checked", None, error),)


# --- The claims ---------------------------------------------------------------------------------


def _connected(run: Ran, stage: Stage) -> Iterator[Check]:
    yield equal("the primary calls itself", "healthy", run["health"].status)
    yield from _saw(run, primary=("GET 200",))
    del stage


def _written(run: Ran, stage: Stage) -> Iterator[Check]:
    entry, held = run["entry"], _held(stage)
    yield equal("the value read is the one written", "gpt-4o", entry.value)
    yield equal("the server holds just that", (held["value"], held["version"]), (entry.value, entry.version))
    yield equal("the read was answered by", ("server", stage.primary.url), (entry.source, entry.endpoint))
    yield equal("a typed value has its type", 0.7, run["temperature"])
    yield from _saw(run, primary=("POST 200", "GET 200", "GET 200"))


def _rolled_back(run: Ran, stage: Stage) -> Iterator[Check]:
    good, restored, versions, held = run["good"], run["restored"], run["versions"], _held(stage)
    yield equal("the earlier value is back", good.value, restored.value)
    yield equal("as a version of its own", good.version + 2, restored.version)
    yield equal("the server holds it", (good.value, restored.version), (held["value"], held["version"]))
    yield equal("history begins with the newest", restored.version, versions[0].version)


def _cached(run: Ran, stage: Stage) -> Iterator[Check]:
    yield equal(
        "the reads were answered by", ("server", "cache"), (run["first"].source, run["second"].source)
    )
    yield equal("requests that the second one cost", 0, run["second"].attempts)
    yield from _saw(run, primary=("GET 200",))
    del stage


def _not_found(run: Ran, stage: Stage) -> Iterator[Check]:
    error = run.error
    yield is_a("the error's class", NotFoundError, error)
    yield equal("its code and status", ("NOT_FOUND", 404), (error.code, error.status))
    yield equal("is_not_found, is_retriable", (True, False), (error.is_not_found, error.is_retriable))
    yield true("the hint names default=", "default=", error.hint, holds="default=" in error.hint)
    yield equal("default= answered", "gpt-4o-mini", run["model"])
    yield from _saw(run, primary=("GET 404", "GET 404"))
    del stage


def _denied(run: Ran, stage: Stage) -> Iterator[Check]:
    error = run.error
    yield is_a("the error's class", PermissionDeniedError, error)
    yield equal("its code and status", ("PERMISSION_DENIED", 403), (error.code, error.status))
    yield equal(
        "is_permission_denied, is_retriable", (True, False), (error.is_permission_denied, error.is_retriable)
    )
    yield true("its words show no token", "no token", str(error), holds=run["viewer_token"] not in str(error))
    yield equal("the server still holds", "gpt-4o", _held(stage)["value"])
    yield from _saw(run, primary=("POST 403",))


def _invalid(run: Ran, stage: Stage) -> Iterator[Check]:
    here, there = run["here"], run["there"]
    yield is_a("the class of ours", InvalidKeyError, here)
    yield is_a("the class of the server's", InvalidKeyError, there)
    yield equal("the server's code and status", ("INVALID_KEY", 422), (there.code, there.status))
    for whose, error in (("ours", here), ("the server's", there)):
        yield equal(
            f"{whose}: is_validation, is_retriable", (True, False), (error.is_validation, error.is_retriable)
        )
    yield from _saw(run, primary=("POST 422",))
    del stage


def _fail_twice(stage: Stage) -> None:
    from llm_config_mock_server import error  # noqa: PLC0415  # only the demo needs the server

    stage.primary.faults.clear()
    stage.primary.script("GET /api/*", [error("SERVICE_UNAVAILABLE"), error("DATABASE_ERROR")])


def _retried(run: Ran, stage: Stage) -> Iterator[Check]:
    entry = run["entry"]
    yield equal("the caller got", ("gpt-4o", "server"), (entry.value, entry.source))
    yield equal("the entry counts its attempts", 3, entry.attempts)
    yield from _saw(run, primary=("GET 503", "GET 503", "GET 200"))
    del stage


def _kill_primary(stage: Stage) -> None:
    stage.kill(stage.primary)


def _failed_over(run: Ran, stage: Stage) -> Iterator[Check]:
    entry = run["entry"]
    yield equal("the primary is down", True, not stage.primary.is_running)
    yield equal("the backup answered", stage.backup.url, entry.endpoint)
    yield equal("first hand", ("gpt-4o", "server"), (entry.value, entry.source))
    yield equal("attempts, one at each", 2, entry.attempts)
    yield from _saw(run, backup=("GET 200",))


def _kill_both(stage: Stage) -> None:
    stage.kill(stage.primary, stage.backup)


def _stale(run: Ran, stage: Stage) -> Iterator[Check]:
    entry = run["entry"]
    failures = entry.error.errors
    yield from _down(stage)
    yield equal("the last value known", "gpt-4o", entry.value)
    yield equal("source, is_stale", ("stale", True), (entry.source, entry.is_stale))
    yield true("its age", "more than 0 s", f"{entry.age:.3f} s", holds=entry.age > 0)
    yield is_a("the error behind it", AllEndpointsFailedError, entry.error)
    yield equal("with a failure an endpoint", len(stage.servers), len(failures))
    yield true(
        "a refused connection among them",
        ConnectFailedError.__name__,
        [type(failure).__name__ for failure in failures],
        holds=any(isinstance(failure, ConnectFailedError) for failure in failures),
    )
    yield equal("the circuits are", ("primary open", "backup open"), run.circuits)
    yield from _saw(run)
    yield _warned(run)


def _fell_back(run: Ran, stage: Stage) -> Iterator[Check]:
    entry = run["entry"]
    yield from _down(stage)
    yield is_a("with nothing to stand in, raised", AllEndpointsFailedError, run.error)
    yield equal("fallback= answered", ("eu-west-1", "default"), (entry.value, entry.source))
    yield is_a("the error behind it", AllEndpointsFailedError, entry.error)
    yield from _saw(run)
    yield _warned(run)


def _bring_back(stage: Stage) -> None:
    stage.bring_back()


def _recovered(run: Ran, stage: Stage) -> Iterator[Check]:
    entry = run["entry"]
    yield equal("the primary answered", stage.primary.url, entry.endpoint)
    yield equal("first hand, attempts", ("server", 1), (entry.source, entry.attempts))
    yield equal("nothing is stale any more", True, not entry.is_stale and entry.error is None)
    yield equal("the primary's circuit", "primary closed", run.circuits[0])
    yield from _saw(run, primary=("GET 200",))


def _kept(run: Ran, stage: Stage) -> Iterator[Check]:
    entry, written = run["entry"], Path(run["snapshot_path"]).is_file()
    yield equal("first hand", ("gpt-4o", "server"), (entry.value, entry.source))
    yield equal("a snapshot is written", True, written)
    yield from _saw(run, primary=("GET 200",))
    del stage


def _started(run: Ran, stage: Stage) -> Iterator[Check]:
    entry = run["entry"]
    yield from _down(stage)
    yield equal("the last value known", "gpt-4o", entry.value)
    yield equal("it came from", "snapshot", entry.source)
    yield true("its age", "more than 0 s", f"{entry.age:.3f} s", holds=entry.age > 0)
    yield from _saw(run)


def _change_while_watched(stage: Stage) -> None:
    """Have somebody else write, as soon as the watcher has looked once."""
    primary = stage.primary
    primary.put("app/llm", "model", "gpt-4o", env=ENVIRONMENT)
    primary.journal.clear()

    def write() -> None:
        with contextlib.suppress(AssertionError):  # nobody watches: the claims will say so
            primary.journal.wait_for(1, status=200)
            primary.put("app/llm", "model", "gpt-5", env=ENVIRONMENT)

    threading.Thread(target=write, daemon=True).start()


def _watched(run: Ran, stage: Stage) -> Iterator[Check]:
    change = run["change"]
    yield equal("what happened", ("updated", "model"), (change.kind, change.key))
    yield equal("before and after", ("gpt-4o", "gpt-5"), (change.old.value, change.new.value))
    yield equal("the server holds it", _held(stage)["version"], change.new.version)
    # How often it looks before somebody writes is a matter of who is faster.
    news = tuple(request for request in run.primary if request != "GET 304")
    yield equal("the primary saw, beside looks that had no news", ("GET 200", "GET 200"), news)
    yield equal("the backup saw", (), run.backup)


def _held(stage: Stage) -> dict[str, Any]:
    """Look up what the primary really holds, past HTTP."""
    return stage.primary.entry("app/llm", "model", env=ENVIRONMENT) or {"value": None, "version": None}


def _saw(run: Ran, primary: tuple[str, ...] = (), backup: tuple[str, ...] = ()) -> Iterator[Check]:
    """Claim which requests the servers' journals have, and that there are no others."""
    yield equal("the primary saw", primary, run.primary)
    yield equal("the backup saw", backup, run.backup)


def _down(stage: Stage) -> Iterator[Check]:
    yield equal("both servers are down", True, not any(server.is_running for server in stage.servers))


def _warned(run: Ran) -> Check:
    return true("warnings in the log", "at least 1", len(run.warnings), holds=bool(run.warnings))


# --- The steps ----------------------------------------------------------------------------------


def _lines(text: str) -> str:
    return textwrap.dedent(text).strip("\n")


STEPS: Final = (
    Step(
        title="One client, two servers",
        says="A primary and a backup, on real sockets. The policy's times are short, and so is the demo.",
        code=_lines("""
            policy = ResiliencePolicy(
                retry=RetryPolicy(max_attempts=3, initial_backoff=0.02),
                breaker=BreakerPolicy(
                    failure_threshold=3, success_threshold=1, timeout=0.25
                ),
                failback_after=0.25,
            )
            client = ConfigClient(
                primary,
                backups=[backup],
                token=token,
                environment="production",
                resilience=policy,
                cache=CachePolicy(ttl=0.0),  # always ask; keep it for an outage
                listeners=[on_event],
            )
            health = client.health_check()
            print(health.service, health.version, "is", health.status)
        """),
        check=_connected,
    ),
    Step(
        title="Write, then read",
        says="An entry knows its version, and where this copy of it came from.",
        code=_lines("""
            client.set_config("app/llm", "model", "gpt-4o")
            entry = client.get_config("app/llm", "model")
            temperature = client.get_float("app/llm", "temperature")
            print(entry.value, "version", entry.version)
            print("from", entry.source, entry.endpoint)
            print("temperature", temperature)
        """),
        check=_written,
    ),
    Step(
        title="A bad change, taken back",
        says="Every write is a version; a rollback writes an earlier one's value anew.",
        code=_lines("""
            good = client.get_config("app/llm", "model")
            client.set_config("app/llm", "model", "gpt-4o-typo")
            restored = client.rollback("app/llm", "model", good.version)
            versions = client.get_history("app/llm", "model")
            for version in versions[:3]:
                print(version.version, version.value, "by", version.created_by)
        """),
        check=_rolled_back,
    ),
    Step(
        title="Reads that cost nothing",
        says="By default an entry is fresh for 30 seconds, and is not asked for again.",
        code=_lines("""
            with ConfigClient(
                primary, token=token, environment="production"
            ) as caching_client:
                first = caching_client.get_config("app/llm", "model")
                second = caching_client.get_config("app/llm", "model")
            print(first.source, "then", second.source)
        """),
        check=_cached,
    ),
    Step(
        title="Not found",
        says="An answer, not an outage: it is told at once, and nothing stale hides it.",
        code=_lines("""
            try:
                client.get_config("app/llm", "modle")
            except NotFoundError as error:
                print(type(error).__name__, error.code, error.status)
                print(error.hint)
            model = client.get_str("app/llm", "modle", default="gpt-4o-mini")
            print("default:", model)
        """),
        check=_not_found,
    ),
    Step(
        title="Denied",
        says="A viewer's token reads, and does not write.",
        code=_lines("""
            with ConfigClient(
                primary, token=viewer_token, environment="production"
            ) as viewer_client:
                try:
                    viewer_client.set_config("app/llm", "model", "gpt-5")
                except PermissionDeniedError as error:
                    print(type(error).__name__, error.code, error.status)
                    print(error.message)
                    print(error.hint)
        """),
        check=_denied,
    ),
    Step(
        title="Invalid",
        says="A bad name is refused before anything is sent; the server's refusal is the same class.",
        code=_lines("""
            try:
                client.set_config("app/llm", "max tokens", 512)
            except ValidationFailure as error:
                here = error
                print(type(error).__name__, error.message)
            try:
                client.request(
                    "POST",
                    "/api/v1/configs/app%2Fllm/max%20tokens",
                    json={"value": 512, "env": "production"},
                )
            except ValidationFailure as error:
                there = error
                print(type(error).__name__, error.code, error.status)
                print(error.hint)
        """),
        check=_invalid,
    ),
    Step(
        title="Fails twice, then answers",
        says="The primary answers 503 twice. A client without a backup tries again: the caller sees a value.",
        code=_lines("""
            with ConfigClient(
                primary, token=token, environment="production", resilience=policy
            ) as single_client:
                entry = single_client.get_config("app/llm", "model")
            print(entry.value, "after", entry.attempts, "attempts")
        """),
        check=_retried,
        before=_fail_twice,
    ),
    Step(
        title="What is known is kept",
        says="With a snapshot, the last values known are on disk, for a start without any server.",
        code=_lines("""
            with ConfigClient(
                primary,
                token=token,
                environment="production",
                snapshot=snapshot_path,
            ) as first_client:
                entry = first_client.get_config("app/llm", "model")
            print(entry.value, "from", entry.source)
        """),
        check=_kept,
    ),
    Step(
        title="The primary is killed",
        says="Its port refuses connections. The read goes to the backup within the same call.",
        code=_lines("""
            entry = client.get_config("app/llm", "model")
            print(entry.value, "after", entry.attempts, "attempts")
            print("from", entry.endpoint)
        """),
        check=_failed_over,
        before=_kill_primary,
    ),
    Step(
        title="Both are killed: stale, and said to be",
        says="Nobody answers. The last value known stands in, and tells its age and the reason.",
        code=_lines("""
            entry = client.get_config("app/llm", "model")
            print(entry.value, entry.source, f"{entry.age:.1f} s old")
            for failure in entry.error.errors:
                print(type(failure).__name__, failure.message)
            for endpoint in client.endpoints:
                print(endpoint.role, "circuit", endpoint.circuit)
        """),
        check=_stale,
        before=_kill_both,
    ),
    Step(
        title="Never read, and nobody answers",
        says="With nothing to stand in the outage is an error; fallback= bridges it.",
        code=_lines("""
            try:
                client.get_config("app/llm", "region")
            except ServerError as error:
                print(type(error).__name__, error.is_retriable)
                print(error.hint)
            entry = client.get_config("app/llm", "region", fallback="eu-west-1")
            print(entry.value, entry.source, type(entry.error).__name__)
        """),
        check=_fell_back,
        before=_kill_both,
    ),
    Step(
        title="An application starts while both are down",
        says="It has never asked a server. The snapshot of an earlier run answers.",
        code=_lines("""
            with ConfigClient(
                primary,
                token=token,
                environment="production",
                snapshot=snapshot_path,
            ) as new_client:
                entry = new_client.get_config("app/llm", "model")
            print(entry.value, "from", entry.source)
        """),
        check=_started,
        before=_kill_both,
    ),
    Step(
        title="Recovery",
        says="Both are started again. One probe closes the circuit: back to the primary.",
        code=_lines("""
            entry = client.get_config("app/llm", "model")
            print(entry.value, "after", entry.attempts, "attempt")
            print("from", entry.source, entry.endpoint)
            print("circuit", client.endpoints[0].circuit)
        """),
        check=_recovered,
        before=_bring_back,
    ),
    Step(
        title="A change, as it happens",
        says="Somebody else writes a new value. A watcher hears of it, with the old one beside it.",
        code=_lines("""
            for change in client.watch("app/llm", "model", interval=0.02):
                print(change.key, change.kind)
                print(change.old.value, "is now", change.new.value)
                break
        """),
        check=_watched,
        before=_change_while_watched,
    ),
)
"""The story, in order."""
