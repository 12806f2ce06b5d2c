"""What a client does when the wire breaks, as a table: faults are rows, operations columns, rules the rest.

A cell says which error a caller gets, after how many attempts, and how many requests the server saw. None of
that is written down cell by cell: `expect` derives it from what the fault does to a request, and from whether
the operation may be repeated.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto
from itertools import product
from typing import TYPE_CHECKING, Any, Literal, get_args

from pydantic import BaseModel

from client_faces import ALL, Face
from integration.footprint import open_files, wait_until
from llm_config_mock_server import (
    FaultProxy,
    MockServer,
    close,
    drip,
    error,
    garbage,
    half_close,
    hang,
    html,
    latency,
    malformed,
    mislabelled,
    ok,
    oversized,
    reset,
    respond,
    stale,
    stall,
    truncate,
)
from llm_config_resilience import RetryPolicy
from llm_config_sdk import (
    BreakerPolicy,
    ConnectFailedError,
    RequestTimeoutError,
    ResiliencePolicy,
    ResponseDecodeError,
    ServiceUnavailableError,
    TransportError,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import ExitStack

    from client_faces import Driver
    from llm_config_mock_server import Step

NAMESPACE, KEY = "app/llm", "model"
SEED = 1
ENDLESS = 33 * 1024 * 1024  # bytes; a client reads 32 MiB at most


# --- Rows: what breaks ------------------------------------------------------------------------------


class Effect(Enum):
    """What a fault does to a request."""

    HARMLESS = auto()  # it is answered all the same
    UNSENT = auto()  # there is no connection to send it over
    UNTRUSTED = auto()  # the client does not trust who answers
    LOST = auto()  # the connection ends before the answer does
    SLOW = auto()  # the answer does not come in time
    UNAVAILABLE = auto()  # the answer says that the service is down
    UNREADABLE = auto()  # the answer is no answer of the platform's
    EMPTY = auto()  # the answer is a success without a body


@dataclass
class Stage:
    """The servers of one cell."""

    server: MockServer
    proxy: FaultProxy | None

    @property
    def url(self) -> str:
        return self.server.url if self.proxy is None else self.proxy.url


@dataclass(frozen=True)
class Fault:
    """A row.

    Args:
        name: What it is called.
        effect: What it does to a request.
        arm: Breaks the wire: at `stage`, for one exchange only or for all.
        place: What breaks: the server, a proxy before it, or the proxy's TLS.
        is_seen: Whether the server sees a request that is struck.
        spans: How long it may last.
        needs_kept: Whether it is about a connection that was used before: armed before that use.
        of_body: Whether it is the reply's own body that breaks.
    """

    name: str
    effect: Effect
    arm: Callable[[Stage, bool], object]
    place: Literal["server", "proxy", "tls"] = "server"
    is_seen: bool = True
    spans: tuple[bool, ...] = (False, True)
    needs_kept: bool = False
    of_body: bool = False


def _step(step: Step, effect: Effect, **options: Any) -> Fault:
    def arm(stage: Stage, lasting: bool) -> object:
        return stage.server.script("*", step, repeat="last" if lasting else "never")

    return Fault(step.name, effect, arm, **options)


def _proxy(name: str, effect: Effect, method: str, is_seen: bool, **arguments: Any) -> Fault:
    def arm(stage: Stage, lasting: bool) -> object:
        return getattr(stage.proxy, method)(**arguments, times=None if lasting else 1)

    return Fault(f"proxy: {name}", effect, arm, "proxy", is_seen)


def _wire(name: str, effect: Effect, method: str, is_seen: bool = True, **arguments: Any) -> Fault:
    def arm(stage: Stage, lasting: bool) -> object:
        return getattr(stage.proxy, method)(**arguments)

    return Fault(f"proxy: {name}", effect, arm, "proxy", is_seen, spans=(True,))


def _certificate(kind: str) -> Fault:
    def arm(stage: Stage, lasting: bool) -> object:
        return stage.proxy.certificate(kind)

    return Fault(f"tls: {kind}", Effect.UNTRUSTED, arm, "tls", is_seen=False, spans=(True,))


def _leave(stage: Stage, lasting: bool) -> None:
    """Stop the server; if not for good, start it again."""
    stage.server.stop()
    if not lasting:
        stage.server.start()


def _go_stale(stage: Stage, lasting: bool) -> None:
    stage.server.script("*", stale())


def _go_stale_on_reuse(stage: Stage, lasting: bool) -> None:
    stage.server.script("*", stale(on_reuse=True))


_SLOWLY = 0.03  # seconds from byte to byte: minutes for a reply, beside what an attempt has

FAULTS: tuple[Fault, ...] = (
    _step(ok(), Effect.HARMLESS),
    _step(latency(0.01, after=0.01), Effect.HARMLESS),
    _step(mislabelled(), Effect.HARMLESS),
    Fault("restart", Effect.HARMLESS, _leave, spans=(False,)),
    Fault("stale", Effect.HARMLESS, _go_stale, spans=(False,), needs_kept=True),
    Fault("away", Effect.UNSENT, _leave, is_seen=False, spans=(True,)),
    _step(reset(), Effect.LOST),
    _step(reset(keep=5), Effect.LOST, of_body=True),
    _step(close(), Effect.LOST),
    _step(half_close(), Effect.LOST),
    _step(truncate(keep=5), Effect.LOST, of_body=True),
    _step(truncate(head=20), Effect.LOST),
    _step(garbage(), Effect.LOST),
    Fault("stale on reuse", Effect.LOST, _go_stale_on_reuse, is_seen=False, spans=(False,), needs_kept=True),
    _step(hang(), Effect.SLOW),
    _step(stall(keep=5), Effect.SLOW, of_body=True),
    _step(drip(_SLOWLY, part="head"), Effect.SLOW),
    _step(drip(_SLOWLY, part="body"), Effect.SLOW, of_body=True),
    _step(drip(_SLOWLY, part="both"), Effect.SLOW),
    _step(error("SERVICE_UNAVAILABLE"), Effect.UNAVAILABLE),
    _step(error("SERVICE_UNAVAILABLE").after_effect(), Effect.UNAVAILABLE),
    _step(html(502), Effect.UNAVAILABLE),
    _step(malformed(), Effect.UNREADABLE, of_body=True),
    _step(oversized(ENDLESS), Effect.UNREADABLE, of_body=True),
    _step(html(200), Effect.UNREADABLE),
    _step(respond(200), Effect.EMPTY),
    _wire("refuse", Effect.UNSENT, "refuse", is_seen=False),
    _wire("latency", Effect.HARMLESS, "latency", seconds=0.01, jitter=0.01),
    _wire("bandwidth", Effect.HARMLESS, "bandwidth", bytes_per_second=200_000),
    _wire("blackhole", Effect.SLOW, "blackhole", is_seen=False),
    _proxy("hang", Effect.SLOW, "hang", is_seen=False),
    _proxy("reset of the response", Effect.LOST, "reset", is_seen=True),
    _proxy("reset in the response", Effect.LOST, "reset", is_seen=True, after=30),
    _proxy("reset of the request", Effect.LOST, "reset", is_seen=False, of="request"),
    _proxy("reset in the request", Effect.LOST, "reset", is_seen=False, of="request", after=10),
    _proxy("cut of the response", Effect.LOST, "cut", is_seen=True),
    _proxy("cut in the response", Effect.LOST, "cut", is_seen=True, after=30),
    _proxy("cut in the request", Effect.LOST, "cut", is_seen=False, of="request", after=10),
    _proxy("half-close", Effect.LOST, "half_close", is_seen=True, after=30),
    _certificate("expired"),
    _certificate("wrong-host"),
    _certificate("untrusted"),
)


# --- Columns: what is asked -------------------------------------------------------------------------

Kind = Literal["read", "delete", "write", "keyed write", "probe"]


class Settings(BaseModel):
    """What `bind` makes of the namespace."""

    model: str


@dataclass(frozen=True)
class Operation:
    """A column.

    Args:
        name: What it is called.
        kind: What repeating it would do.
        call: Does it.
        needs_body: Whether a success has to bring something.
        gets_body: Whether the server's own reply has a body.
    """

    name: str
    kind: Kind
    call: Callable[[Driver], object]
    needs_body: bool = True
    gets_body: bool = True


_PATH = "/api/v1/configs/app%2Fllm/model"
_IN = {"env": "production"}

OPERATIONS: tuple[Operation, ...] = (
    Operation("get_config", "read", lambda client: client.get_config(NAMESPACE, KEY)),
    Operation("get_str", "read", lambda client: client.get_str(NAMESPACE, KEY)),
    Operation("get_many", "read", lambda client: client.get_many([(NAMESPACE, KEY)])[0].unwrap()),
    Operation("resolve", "read", lambda client: client.resolve(NAMESPACE, KEY, env="base")),
    Operation("list_configs", "read", lambda client: client.list_configs(NAMESPACE)),
    Operation("prefetch", "read", lambda client: client.prefetch(NAMESPACE)),
    Operation("bind", "read", lambda client: client.bind(Settings, NAMESPACE)),
    Operation("get_history", "read", lambda client: client.get_history(NAMESPACE, KEY)),
    Operation(
        "request GET", "read", lambda client: client.request("GET", _PATH, params=_IN), needs_body=False
    ),
    Operation("health_check", "probe", lambda client: client.health_check()),
    Operation("set_config", "write", lambda client: client.set_config(NAMESPACE, KEY, "new")),
    Operation(
        "set_config, keyed",
        "keyed write",
        lambda client: client.set_config(NAMESPACE, KEY, "new", idempotency_key="key-1"),
    ),
    Operation("set_many", "write", lambda client: client.set_many({(NAMESPACE, KEY): "new"})[0].unwrap()),
    Operation("rollback", "write", lambda client: client.rollback(NAMESPACE, KEY, 1)),
    Operation(
        "request POST",
        "write",
        lambda client: client.request("POST", _PATH, json={"value": "new", **_IN}),
        needs_body=False,
    ),
    Operation(
        "delete_config",
        "delete",
        lambda client: client.delete_config(NAMESPACE, KEY),
        needs_body=False,
        gets_body=False,
    ),
)


# --- The rules --------------------------------------------------------------------------------------

MOST_ATTEMPTS = 3  # the default
MOST_SLOW_ATTEMPTS = 2  # each of them takes its time
_ERRORS: dict[Effect, type[Exception]] = {
    Effect.UNSENT: ConnectFailedError,
    Effect.UNTRUSTED: ConnectFailedError,
    Effect.LOST: TransportError,
    Effect.SLOW: RequestTimeoutError,
    Effect.UNAVAILABLE: ServiceUnavailableError,
    Effect.UNREADABLE: ResponseDecodeError,
}
_SAYS_NEVER_SENT: dict[Effect, bool] = {
    Effect.UNSENT: True,
    Effect.UNTRUSTED: True,
    Effect.LOST: False,
    Effect.SLOW: False,
}


@dataclass(frozen=True)
class Expected:
    """What becomes of a call.

    Args:
        error: What is raised; `None` for an answer.
        attempts: How often the client tried.
        seen: How many requests the server saw.
        never_sent: Whether the error says that the request did not leave; `None` where it has nothing to say.
        works_again: Whether a read is answered soon after all is well again.
    """

    error: type[Exception] | None
    attempts: int
    seen: int
    never_sent: bool | None = None
    works_again: bool = True


def most_attempts(effect: Effect) -> int:
    """How often a client of this matrix tries what it may repeat."""
    return MOST_SLOW_ATTEMPTS if effect is Effect.SLOW else MOST_ATTEMPTS


def expect(fault: Fault, operation: Operation, *, lasting: bool) -> Expected:
    """Derive a cell from its row and its column."""
    effect = fault.effect
    if effect is Effect.EMPTY:
        effect = Effect.UNREADABLE if operation.needs_body else Effect.HARMLESS
    if fault.of_body and not operation.gets_body:
        effect = Effect.HARMLESS
    if effect is Effect.HARMLESS:
        return Expected(None, 1, 1)
    # A probe is one honest question. What never left may be repeated, whatever it is; what may have arrived
    # only if seeing it twice does nothing more. A certificate, and an answer that cannot be read, come again.
    if operation.kind == "probe" or effect in {Effect.UNREADABLE, Effect.UNTRUSTED}:
        allowed = 1
    elif effect is Effect.UNSENT or operation.kind != "write":
        allowed = most_attempts(effect)
    else:
        allowed = 1
    if lasting or allowed == 1:
        return Expected(
            _ERRORS[effect], allowed, allowed if fault.is_seen else 0, _SAYS_NEVER_SENT.get(effect)
        )
    return Expected(None, 2, 2 if fault.is_seen else 1)


# --- Cells ------------------------------------------------------------------------------------------

Profile = Literal["guide", "upstream-0.5"]
PROFILES: tuple[Profile, ...] = get_args(Profile)
FACES = tuple(ALL)


@dataclass(frozen=True)
class Cell:
    """One call: a fault, an operation, a face of the client, a profile of the server.

    Args:
        fault: The row.
        operation: The column.
        face: Colour and wire of the client.
        profile: How the server speaks.
        kept: Whether the connection was used before.
        lasting: Whether the fault strikes every exchange, or one.
    """

    fault: Fault
    operation: Operation
    face: str
    profile: Profile
    kept: bool
    lasting: bool

    def __str__(self) -> str:
        connection = "kept" if self.kept else "new"
        span = "for good" if self.lasting else "once"
        names = (self.fault.name, self.operation.name, self.face, self.profile, connection, span)
        return " | ".join(names)

    @property
    def expected(self) -> Expected:
        """What has to become of it."""
        return expect(self.fault, self.operation, lasting=self.lasting)

    @property
    def is_claimed(self) -> bool:
        """Whether the client promises it: an injected sync client keeps no deadline before the body."""
        drips_its_head = self.fault.name in {"drip of the head", "drip of head and body"}
        return not (drips_its_head and self.face.startswith("sync, injected"))


def _cell(row: int, column: int, face: int, profile: int, turn: int) -> Cell:
    """Make a cell; connection and span take turns, as far as the fault leaves a choice."""
    fault = FAULTS[row]
    return Cell(
        fault,
        OPERATIONS[column],
        FACES[face % len(FACES)],
        PROFILES[profile % len(PROFILES)],
        kept=fault.needs_kept or turn % 2 == 0,
        lasting=fault.spans[turn // 2 % len(fault.spans)],
    )


def everything() -> list[Cell]:
    """The whole product of faults, operations, faces and profiles."""
    sizes = (len(FAULTS), len(OPERATIONS), len(FACES), len(PROFILES))
    cells = [_cell(*place, turn=sum(place)) for place in product(*map(range, sizes))]
    return [cell for cell in cells if cell.is_claimed]


def covering() -> list[Cell]:
    """Every fault with every operation once, faces and profiles dealt out in turn.

    So every fault meets every face and both profiles, every operation too, and every face both profiles; a
    test holds this function to it.
    """
    cells: list[Cell] = []
    for row, column in product(range(len(FAULTS)), range(len(OPERATIONS))):
        cell = _cell(row, column, row + column, row // 2 + column, turn=row + 3 * column // 2)
        step = 0
        while not cell.is_claimed:
            step += 1
            cell = _cell(row, column, row + column + step, row // 2 + column, turn=row + 3 * column // 2)
        cells.append(cell)
    return cells


# --- Playing a cell ---------------------------------------------------------------------------------

UNHURRIED = 60.0  # seconds
ATTEMPT = 0.15  # seconds for an attempt that a fault holds up


def options_for(cell: Cell, stage: Stage, attempt: float) -> dict[str, Any]:
    """Say how the client of a cell is made."""
    most = most_attempts(cell.fault.effect)
    is_guide = cell.profile == "guide"
    options: dict[str, Any] = {
        "environment": "production",
        "token": stage.server.token("admin") if is_guide else None,
        "headers": {} if is_guide else {"X-Forwarded-Proto": "https"},
        "cache": None,
        "timeout": UNHURRIED,
        "resilience": ResiliencePolicy(
            retry=RetryPolicy(max_attempts=most, initial_backoff=0.001, max_backoff=0.002),
            # On a machine that stalls, recovery is asked for more often than a circuit waits to see.
            breaker=BreakerPolicy(failure_threshold=1000),
            attempt_timeout=attempt if cell.fault.effect is Effect.SLOW else UNHURRIED / 2,
        ),
    }
    return options


def connect(face: Face, cell: Cell, stage: Stage, attempt: float) -> Driver:
    """Make the client of a cell."""
    options = options_for(cell, stage, attempt)
    trust = {"verify": stage.proxy.ssl_context} if cell.fault.place == "tls" and stage.proxy else {}
    if face.is_injected:
        options["http_client"] = face.http_client(**trust)
    else:
        options |= trust
    return face.client(stage.url, **options)


def stage_for(cell: Cell, stack: ExitStack) -> Stage:
    """Start the servers of a cell."""
    server = stack.enter_context(MockServer(cell.profile, seed=SEED, limits=False))
    for value in ("old", "newer"):
        for env in ("base", "production"):
            server.put(NAMESPACE, KEY, value, env=env)
    if cell.fault.place == "server":
        return Stage(server, None)
    is_tls = cell.fault.place == "tls"
    proxy = FaultProxy(server.url, seed=SEED, tls=is_tls)
    return Stage(server, stack.enter_context(proxy))


def begin(client: Driver, cell: Cell, stage: Stage) -> None:
    """Use the connection once, where the cell says so, and break the wire."""
    if cell.fault.needs_kept:
        cell.fault.arm(stage, cell.lasting)
    if cell.kept:
        opened = open_files()["socket"]
        client.with_options(
            resilience=None
        ).health_check()  # an attempt may be short on a machine that stalls
        if cell.fault.name == "stale":  # what a client notices before it sends, if it is there by then
            assert wait_until(lambda: open_files()["socket"] <= opened + 1)
    if not cell.fault.needs_kept:
        cell.fault.arm(stage, cell.lasting)
    stage.server.journal.clear()


def heal(stage: Stage) -> None:
    """Make everything well again."""
    stage.server.faults.clear()
    stage.server.start()
    if stage.proxy is not None:
        stage.proxy.heal()


def patiences() -> Iterator[float]:
    """Seconds for an attempt: a machine that stalls for longer is given more, a few times."""
    return iter((ATTEMPT, 4 * ATTEMPT, 16 * ATTEMPT))
