"""The admin interface: the server's own faults, conditions, journal and entries over HTTP.

Requests to it meet no fault, are in no journal and count against no limit. They come from the
loopback or with the token of an admin; from a browser, only from pages of this server itself.
"""

from __future__ import annotations

import hashlib
import ipaddress
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from email.utils import formatdate
from typing import TYPE_CHECKING, Any, Final, Literal, TypeVar, cast
from urllib.parse import unquote, urlsplit

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from llm_config_sdk.contract import (
    API_PREFIX,
    CODES,
    REDACTED_PLACEHOLDER,
    REQUEST_ID_HEADER,
    Environment,
    ErrorCode,
    key_problem,
    namespace_problem,
)

from . import faults
from .conditions import COMPONENTS, KINDS, ComponentFailureError, Condition
from .faults import CHAOS_RATE, ErrorSpec, Match, Repeat, Rule, Step
from .messages import Later, Reply, json_bytes, json_reply
from .profiles import load_profile
from .rbac import EVERYWHERE
from .storage import Address
from .vault import CryptoError

if TYPE_CHECKING:
    from .core import Aside as Answerer, Call, Core
    from .journal import Entry
    from .messages import Header, Request
    from .server import MockServer

ADMIN_PREFIX: Final = f"{API_PREFIX}/admin"
LIST_DEFAULT: Final = 100  # items of a list, unless asked for more
LIST_MAX: Final = 1000
VALUE_SHOWN_BYTES: Final = 4096  # of JSON; a longer value is told by its size
RULES_MAX: Final = 1000  # armed at once: a bound for what a runaway script may pile up
BATCH_MAX: Final = 500  # requests in one reply of the events
EVENT_POLL_SECONDS: Final = 0.1  # between two looks at what is new: quick to a person, cheap to the server
EVENT_WAIT_SECONDS: Final = 15.0  # the longest wait for news; below what proxies cut
EVENT_RETRY_MILLISECONDS: Final = 200  # when an `EventSource` comes back for what is new by then
_LONGEST_DELAY: Final = 3600.0  # seconds
_LARGEST_BODY: Final = 64 * 1024 * 1024  # bytes of an oversized reply
_STEPS_MAX: Final = 100
_TIMES_MAX: Final = 1000
_STEPS_SHOWN: Final = 20
_PENDING_MAX: Final = 200  # undecided requests that a cursor remembers
_CURSOR: Final = re.compile(r"(\d{1,15})\.((?:\d{1,15}(?:-\d{1,15})*)?)\.([0-9a-f]{1,32})")
_SECURITY_HEADERS: Final = (
    ("cache-control", "no-store"),
    ("x-content-type-options", "nosniff"),
    ("cross-origin-resource-policy", "same-origin"),
)

# --- Bodies -------------------------------------------------------------------------------------

Seconds = float
_HEADER_NAME: Final = r"^[A-Za-z0-9!#$%&'*+.^_`|~-]{1,100}$"
_HEADER_VALUE: Final = r"^[\x20-\x7e]{0,1000}$"
_COUNT_MAX: Final = 1_000_000


class _Body(BaseModel):
    """A body of the admin interface: strict, and what it does not know is an error."""

    model_config = ConfigDict(extra="forbid", strict=True, hide_input_in_errors=True, frozen=True)


class MatchBody(_Body):
    """Which requests a rule is about; the fields of `Match`."""

    method: str | None = Field(None, pattern=r"^[A-Za-z]{1,20}$")
    path: str | None = Field(None, min_length=1, max_length=1000)
    namespace: str | None = Field(None, min_length=1, max_length=300)
    key: str | None = Field(None, min_length=1, max_length=300)
    env: str | None = Field(None, max_length=20)
    headers: dict[str, str] = Field(default_factory=dict[str, str], max_length=20)
    token: str | None = Field(None, min_length=1, max_length=300)
    connection: bool = False


class StepBody(_Body):
    """What happens to one request: `do` names a step of the Python interface, the rest are its arguments."""

    do: Literal[
        "close",
        "drip",
        "error",
        "garbage",
        "half_close",
        "hang",
        "html",
        "latency",
        "malformed",
        "mislabelled",
        "ok",
        "oversized",
        "reset",
        "respond",
        "stale",
        "stall",
        "truncate",
    ]
    code: str | None = Field(None, pattern=r"^[A-Z_]{1,64}$")
    module: str | None = Field(None, max_length=64)
    variant: str | None = Field(None, max_length=64)
    status: int | None = Field(None, ge=200, le=599)
    message: str | None = Field(None, max_length=1000)
    details: dict[str, Any] | None = None
    kind: str | None = Field(None, max_length=64)
    retriable: bool | None = None
    retry_after: int | float | str | None = None
    body: Any = None
    content_type: str | None = Field(None, pattern=_HEADER_VALUE)
    headers: dict[str, str] | None = Field(None, max_length=20)
    reason: str | None = Field(None, pattern=r"^[\w .-]{1,100}$")
    size: int | None = Field(None, ge=1, le=_LARGEST_BODY)
    keep: int | None = Field(None, ge=0)
    head: int | None = Field(None, ge=0)
    interval: Seconds | None = Field(None, gt=0, le=_LONGEST_DELAY)
    part: Literal["head", "body", "both"] | None = None
    on_reuse: bool | None = None
    before: Seconds | None = Field(None, ge=0, le=_LONGEST_DELAY)
    after: Seconds | None = Field(None, ge=0, le=_LONGEST_DELAY)
    after_effect: bool = False
    at_head: bool = False

    def step(self, place: str) -> Step:
        """Make the step.

        Args:
            place: Where it stands, for an error to name.

        Raises:
            RefusedError: An argument is not the step's, or the arguments contradict each other.
        """
        foreign = self.model_fields_set - _ARGUMENTS[self.do] - _ANY_STEP
        if foreign:
            name = min(foreign)
            raise RefusedError(f"{name} is no argument of {self.do}", f"{place}.{name}")
        for name, value in (self.headers or {}).items():
            if not re.fullmatch(_HEADER_NAME, name) or not re.fullmatch(_HEADER_VALUE, value):
                raise RefusedError("headers must be names and values of HTTP", f"{place}.headers")
        if isinstance(self.retry_after, str) and not re.fullmatch(_HEADER_VALUE, self.retry_after):
            raise RefusedError("retry_after must be seconds or an HTTP date", f"{place}.retry_after")
        try:
            return self._made()
        except (ValueError, TypeError) as error:
            raise RefusedError(str(error), place) from error

    def _made(self) -> Step:
        given = {name: getattr(self, name) for name in self.model_fields_set & _ARGUMENTS[self.do]}
        if self.do == "respond":
            given.setdefault("status", 200)
        make: Callable[..., Step] = getattr(faults, self.do)
        step = make(**given)
        delays = {
            name: value
            for name, value in (("before", self.before), ("after", self.after))
            if value is not None and name not in given
        }
        step = step.delayed(**delays) if delays else step
        step = step.after_effect() if self.after_effect else step
        return step.at_head() if self.at_head else step


_ANY_STEP: Final = frozenset({"do", "before", "after", "after_effect", "at_head"})
_ARGUMENTS: Final[Mapping[str, frozenset[str]]] = {
    "close": frozenset(),
    "drip": frozenset({"interval", "size", "part"}),
    "error": frozenset(
        {
            "code",
            "module",
            "variant",
            "status",
            "message",
            "details",
            "kind",
            "retriable",
            "retry_after",
        }
    ),
    "garbage": frozenset(),
    "half_close": frozenset(),
    "hang": frozenset(),
    "html": frozenset({"status", "reason"}),
    "latency": frozenset({"before", "after"}),
    "malformed": frozenset(),
    "mislabelled": frozenset({"content_type"}),
    "ok": frozenset(),
    "oversized": frozenset({"size"}),
    "reset": frozenset({"keep"}),
    "respond": frozenset({"status", "body", "content_type", "headers"}),
    "stale": frozenset({"on_reuse"}),
    "stall": frozenset({"keep"}),
    "truncate": frozenset({"keep", "head"}),
}


class FaultBody(_Body):
    """A rule to arm; what `MockServer.script` takes, and a name to know it by."""

    name: str | None = Field(None, min_length=1, max_length=100)
    match: str | MatchBody
    steps: list[StepBody] = Field(min_length=1, max_length=_STEPS_MAX)
    repeat: Repeat = "never"
    times: int = Field(1, ge=1, le=_TIMES_MAX)
    probability: float = Field(1.0, ge=0, le=1)
    between: list[float] | None = Field(None, min_length=2, max_length=2)


class ConditionBody(_Body):
    """A component's trouble; the fields of `Condition`."""

    kind: str
    count: int | None = Field(None, ge=1, le=_COUNT_MAX)


class ChaosBody(_Body):
    """A share of all requests fails; what `MockServer.chaos` takes."""

    rate: float = Field(CHAOS_RATE, ge=0, le=1)
    match: str = Field("/api/*", min_length=1, max_length=1000)
    steps: list[StepBody] | None = Field(None, min_length=1, max_length=_STEPS_MAX)


class EntryBody(_Body):
    """An entry to write past roles, faults and audit; what `MockServer.put` takes."""

    value: Any
    env: str = Environment.DEVELOPMENT
    secret: bool = False
    user: str = Field("admin", min_length=1, max_length=128)
    tags: list[str] = Field(default_factory=list[str], max_length=100)
    description: str | None = Field(None, max_length=10_000)


_B = TypeVar("_B", bound=_Body)


class RefusedError(Exception):
    """A request to the admin interface that cannot be carried out; says which field is to blame."""

    def __init__(
        self,
        message: str,
        field: str | None = None,
        *,
        code: ErrorCode = ErrorCode.VALIDATION_ERROR,
        status: int | None = None,
        headers: tuple[Header, ...] = (),
        **details: Any,
    ) -> None:
        """Remember what the envelope will say."""
        super().__init__(message)
        self.code = code
        self.status = CODES[code].status if status is None else status
        self.headers = headers
        self.details = ({} if field is None else {"field": field}) | details


# --- The interface ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Visit:
    """A request on its way to its handler."""

    call: Call
    arguments: tuple[str, ...]

    @property
    def request(self) -> Request:
        """The request."""
        return self.call.request

    def body(self, model: type[_B]) -> _B:
        """Return the body.

        Raises:
            RefusedError: It is no JSON, or not what the model asks for; the field is named.
        """
        try:
            data = json.loads(self.request.body, parse_constant=_no_constant)
            json_bytes(data)
        except (ValueError, RecursionError) as error:
            raise RefusedError(
                f"Malformed JSON in the body: {error}", "body", code=ErrorCode.INVALID_REQUEST
            ) from error
        try:
            return model.model_validate(data)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False, include_context=False)[0]
            field = ".".join(str(part) for part in first["loc"]) or "body"
            raise RefusedError(f"{field}: {first['msg']}", field) from error

    def parameter(self, name: str) -> str | None:
        """Return a query parameter, or `None`."""
        return self.request.parameters.get(name, [None])[-1]

    def number(self, name: str, default: int, *, most: int) -> int:
        """Return a query parameter that is a whole number from 0.

        Raises:
            RefusedError: It is none.
        """
        text = self.parameter(name)
        if text is None:
            return default
        if not re.fullmatch(r"[0-9]{1,15}", text) or int(text) > most:
            raise RefusedError(f"{name} must be a whole number from 0 to {most}, not {text[:64]!r}", name)
        return int(text)

    def environment(self) -> Environment:
        """Return the environment of the query, the development one if left out.

        Raises:
            RefusedError: There is none of that name.
        """
        return _environment(self.parameter("env") or Environment.DEVELOPMENT)

    def address(self, environment: Environment) -> Address:
        """Return the address that the path names.

        Raises:
            RefusedError: Namespace or key break the platform's rules.
        """
        namespace, key = self.arguments[:2]
        for field, problem in (("namespace", namespace_problem(namespace)), ("key", key_problem(key))):
            if problem is not None:
                raise RefusedError(problem, field)
        return Address(namespace, key, environment)


Handler = Callable[["Admin", Visit], Reply]


@dataclass(frozen=True, slots=True)
class Route:
    """A path of the interface, below its prefix (`None` stands for any segment), and its handlers."""

    segments: tuple[str | None, ...]
    handlers: Mapping[str, Handler]

    def arguments(self, segments: list[str]) -> tuple[str, ...] | None:
        """Return the decoded segments that fill the gaps, or `None` where the path is another."""
        if len(segments) != len(self.segments):
            return None
        pairs = tuple(zip(self.segments, segments, strict=True))
        if any(wanted is not None and wanted != given for wanted, given in pairs):
            return None
        return tuple(unquote(given) for wanted, given in pairs if wanted is None)


class Admin:
    """Answers requests about the server itself.

    Args:
        server: The server.
        core: Its core.
    """

    def __init__(self, server: MockServer, core: Core) -> None:
        """Begin without names of rules and without chaos."""
        self._server = server
        self._core = core
        self._envelope = load_profile("guide")
        self._names: dict[int, str] = {}
        self._chaos: Rule | None = None

    def answerer(self, request: Request) -> Answerer | None:
        """Return what answers a request, or `None` where it is not for the interface."""
        path = request.path
        if path != ADMIN_PREFIX and not path.startswith(f"{ADMIN_PREFIX}/"):
            return None
        if path == f"{ADMIN_PREFIX}/events":
            return _Events(self)
        return self._answer

    def guarded(self, call: Call, carry_out: Callable[[Call], Reply | Later]) -> Reply | Later:
        """Carry a request out, if whoever sent it may; every failure is the guide's envelope."""
        try:
            self._check_caller(call.request)
            said = carry_out(call)
        except RefusedError as error:
            said = self._refusal(error, call)
        except ComponentFailureError as error:
            refusal = RefusedError(
                f"Storage error: {error.component} {error.message}",
                code=ErrorCode.STORAGE_ERROR,
                kind=error.kind,
            )
            said = self._refusal(refusal, call)
        return said if isinstance(said, Later) else _finished(said, call)

    def _refusal(self, error: RefusedError, call: Call) -> Reply:
        reply = self._envelope.error(
            ErrorSpec(
                code=str(error.code),
                status=error.status,
                message=str(error),
                details=error.details,
                retriable=CODES[error.code].retriable,
            ),
            call,
        )
        return reply.with_headers(*error.headers)

    def _check_caller(self, request: Request) -> None:
        """Let in the loopback and admins, and no page of another origin.

        Raises:
            RefusedError: The caller is neither, or a page of another origin asks.
        """
        origin, host = request.header("origin"), request.header("host") or ""
        is_foreign = origin is not None and urlsplit(origin).netloc.lower() != host.lower()
        if is_foreign or request.header("sec-fetch-site") in {"cross-site", "same-site"}:
            raise RefusedError(
                "The admin interface answers no pages of another origin",
                code=ErrorCode.PERMISSION_DENIED,
                header="Origin",
            )
        rbac, token = self._core.platform.rbac, request.token
        principal = None if token is None else rbac.authenticate(token)
        if principal is not None and any(
            grant.role == "admin" and grant.scope == EVERYWHERE for grant in principal.grants
        ):
            return
        # A name that is not the loopback's, from the loopback: a page may have bent its name to here.
        if _is_loopback(request.peer) and _is_loopback_host(host):
            return
        raise RefusedError(
            "The admin interface is for the loopback, or for the token of an admin",
            code=ErrorCode.UNAUTHORIZED if token is None else ErrorCode.PERMISSION_DENIED,
            headers=(("www-authenticate", 'Bearer realm="admin"'),) if token is None else (),
        )

    def _answer(self, call: Call) -> Reply | Later:
        return self.guarded(call, self._carry_out)

    def _carry_out(self, call: Call) -> Reply:
        request = call.request
        segments = [part for part in request.path.removeprefix(ADMIN_PREFIX).split("/")[1:] if part]
        for route in ROUTES:
            arguments = route.arguments(segments)
            if arguments is None:
                continue
            handler = route.handlers.get("GET" if request.method == "HEAD" else request.method)
            if handler is None:
                raise _no_method(request, ", ".join(sorted(route.handlers)))
            return handler(self, Visit(call, arguments))
        raise _no_route(request)

    # --- Faults and chaos ---------------------------------------------------------------------------

    def _rules(self) -> list[dict[str, Any]]:
        rules = list(self._core.faults)
        self._names = {rule.number: self._names[rule.number] for rule in rules if rule.number in self._names}
        return [self._rule_body(rule) for rule in rules]

    def _rule_body(self, rule: Rule) -> dict[str, Any]:
        return {
            "number": rule.number,
            "name": self._names.get(rule.number),
            "match": str(rule.match),
            "steps": [step.name for step in rule.steps[:_STEPS_SHOWN]],
            "steps_in_all": len(rule.steps),
            "repeat": rule.repeat,
            "probability": rule.probability,
            "between": None if rule.between is None else list(rule.between),
            "fired": rule.fired,
            "is_spent": rule.is_spent,
        }

    def list_faults(self, _: Visit) -> Reply:
        """Answer with the rules that are armed, newest first."""
        return json_reply(200, {"faults": self._rules()})

    def add_fault(self, visit: Visit) -> Reply:
        """Arm a rule."""
        body = visit.body(FaultBody)
        rule = self._script(
            visit,
            _match(body.match),
            _steps(body.steps),
            repeat=body.repeat,
            times=body.times,
            probability=body.probability,
            between=None if body.between is None else (body.between[0], body.between[1]),
        )
        if body.name is not None:
            self._names[rule.number] = body.name
        return json_reply(201, self._rule_body(rule))

    def _script(self, visit: Visit, match: Match, steps: list[Step], **options: Any) -> Rule:
        if len(self._core.faults) >= RULES_MAX:
            raise RefusedError(f"there are {RULES_MAX} rules already: remove some", code=ErrorCode.CONFLICT)
        if match.connection and options["repeat"] != "never":
            raise RefusedError(
                "a rule about connections must end (repeat: never): it would meet the admin interface too",
                "repeat",
            )
        try:
            return self._core.faults.script(match, steps, at=visit.call.at, **options)
        except ValueError as error:
            raise RefusedError(str(error), "steps") from error

    def remove_faults(self, _: Visit) -> Reply:
        """Take every rule back, chaos too."""
        self._core.faults.clear()
        return Reply(204)

    def remove_fault(self, visit: Visit) -> Reply:
        """Take one rule back."""
        for rule in self._core.faults:
            if str(rule.number) == visit.arguments[0]:
                rule.remove()
                return Reply(204)
        raise RefusedError(f"There is no rule {visit.arguments[0]}", "number", code=ErrorCode.NOT_FOUND)

    def _chaos_body(self) -> dict[str, Any]:
        rule = self._chaos if self._chaos in tuple(self._core.faults) else None
        if rule is None:
            return {"enabled": False, "rate": None, "match": None, "fired": None, "rule": None}
        return {
            "enabled": True,
            "rate": rule.probability,
            "match": str(rule.match),
            "fired": rule.fired,
            "rule": rule.number,
        }

    def get_chaos(self, _: Visit) -> Reply:
        """Answer whether a share of requests fails."""
        return json_reply(200, self._chaos_body())

    def set_chaos(self, visit: Visit) -> Reply:
        """Let a share of requests fail, in place of any other chaos of this interface."""
        body = visit.body(ChaosBody)
        steps, match = None if body.steps is None else _steps(body.steps), _match(body.match)
        self._end_chaos()
        self._chaos = self._server.chaos(body.rate, steps, match=match)
        self._names[self._chaos.number] = "chaos"
        return json_reply(200, self._chaos_body())

    def remove_chaos(self, _: Visit) -> Reply:
        """End the chaos."""
        self._end_chaos()
        return Reply(204)

    def _end_chaos(self) -> None:
        if self._chaos is not None:
            self._chaos.remove()
        self._chaos = None

    # --- Conditions ---------------------------------------------------------------------------------

    def _conditions_body(self) -> dict[str, Any]:
        found = self._core.platform.conditions
        return {
            component: {"kind": found[component].kind, "count": found[component].count}
            if component in found
            else None
            for component in COMPONENTS
        }

    def list_conditions(self, _: Visit) -> Reply:
        """Answer with every component's condition, and the kinds there are."""
        return json_reply(200, {"conditions": self._conditions_body(), "kinds": sorted(KINDS)})

    def set_condition(self, visit: Visit) -> Reply:
        """Bring a component into a condition."""
        component, body = _component(visit), visit.body(ConditionBody)
        if body.kind not in KINDS:
            raise RefusedError(
                f"unknown condition {body.kind[:64]!r}: expected one of {', '.join(sorted(KINDS))}", "kind"
            )
        self._core.platform.conditions[component] = Condition(body.kind, body.count)
        return json_reply(200, {"component": component, "kind": body.kind, "count": body.count})

    def remove_condition(self, visit: Visit) -> Reply:
        """Make a component well again; one that is well stays so."""
        self._core.platform.conditions.pop(_component(visit), None)
        return Reply(204)

    def remove_conditions(self, _: Visit) -> Reply:
        """Make every component well again."""
        self._core.platform.conditions.clear()
        return Reply(204)

    # --- The journal --------------------------------------------------------------------------------

    def list_journal(self, visit: Visit) -> Reply:
        """Answer with the newest requests, oldest first; `after` asks for those behind a number."""
        limit = visit.number("limit", LIST_DEFAULT, most=LIST_MAX)
        after = visit.number("after", 0, most=10**15 - 1)
        entries = [entry for entry in self._core.journal if entry.number > after]
        chosen = entries[:limit] if visit.parameter("after") is not None else entries[len(entries) - limit :]
        return json_reply(
            200,
            {
                "requests": [request_body(entry) for entry in (chosen if limit else ())],
                "kept": len(self._core.journal),
            },
        )

    def clear_journal(self, _: Visit) -> Reply:
        """Forget every request."""
        self._core.journal.clear()
        return Reply(204)

    # --- Entries ------------------------------------------------------------------------------------

    def list_entries(self, visit: Visit) -> Reply:
        """Answer with live entries by namespace, key and environment; no secret is shown."""
        limit = visit.number("limit", LIST_DEFAULT, most=LIST_MAX)
        offset = visit.number("offset", 0, most=10**15 - 1)
        namespace, env = visit.parameter("namespace"), visit.parameter("env")
        environment = None if env is None else _environment(env)
        storage = self._core.platform.store.storage
        addresses = sorted(
            address
            for address in storage.addresses()
            if (namespace is None or address.namespace == namespace)
            and (environment is None or address.environment == environment)
        )
        shown = [
            _stored_body(address, storage.read(address)) for address in addresses[offset : offset + limit]
        ]
        return json_reply(200, {"entries": shown, "in_all": len(addresses)})

    def put_entry(self, visit: Visit) -> Reply:
        """Write an entry past roles, faults and audit."""
        body = visit.body(EntryBody)
        address = visit.address(_environment(body.env))
        try:
            written = self._server.put(
                address.namespace,
                address.key,
                body.value,
                env=address.environment,
                secret=body.secret,
                user=body.user,
                tags=body.tags,
                description=body.description,
            )
        except ValueError as error:
            raise RefusedError(str(error), "value") from error
        except CryptoError as error:
            raise RefusedError(error.message, "secret", code=ErrorCode.ENCRYPTION_ERROR) from error
        if body.secret:
            written = {**written, "value": REDACTED_PLACEHOLDER}
        return json_reply(200, written)

    def remove_entry(self, visit: Visit) -> Reply:
        """Remove a live entry, past everything; its history stays."""
        address = visit.address(visit.environment())
        store = self._core.platform.store
        if not store.storage.remove(address):
            raise RefusedError(f"There is no entry {address}", code=ErrorCode.NOT_FOUND)
        store.changes += 1
        return Reply(204)

    def put_record(self, visit: Visit) -> Reply:
        """Put raw bytes in the place of a record or of a cached one, as a broken disk would."""
        address = visit.address(visit.environment())
        tier = visit.parameter("tier") or "store"
        if tier not in TIERS:
            raise RefusedError(f"tier must be one of {', '.join(TIERS)}, not {tier[:64]!r}", "tier")
        if tier == "l2":
            self._core.platform.cache.put_blob(address, visit.request.body)
            return Reply(204)
        platform = self._core.platform
        if tier == "l2":
            platform.cache.put_blob(address, visit.request.body)
        else:
            platform.store.storage.write(address, visit.request.body, snapshot=False)
            platform.store.changes += 1
        return Reply(204)

    # --- The whole ----------------------------------------------------------------------------------

    def stats(self, _: Visit) -> Reply:
        """Answer with the state of the server, counted."""
        return json_reply(200, self.state())

    def reset(self, _: Visit) -> Reply:
        """Go back to the beginning: no entries, faults, conditions or journal; tokens stay valid."""
        self._server.reset()
        return Reply(204)

    def state(self) -> dict[str, Any]:
        """Return what the server is and does, without entries and requests."""
        core = self._core
        entries = list(core.journal)
        statuses = Counter(entry.status for entry in entries if entry.is_done)
        codes = Counter(entry.code for entry in entries if entry.code is not None)
        return {
            "profile": core.profile.name,
            "seed": core.platform.randomness.seed,
            "changes": core.platform.store.changes,
            "requests": {
                "kept": len(entries),
                "first": entries[0].number if entries else None,
                "undecided": sum(not entry.is_done for entry in entries),
                "by_status": {
                    str(status or "none"): count for status, count in sorted(statuses.items(), key=_by_status)
                },
                "by_code": dict(sorted(codes.items())),
            },
            "faults": self._rules(),
            "chaos": self._chaos_body(),
            "conditions": self._conditions_body(),
            "defects": [f"{type(error).__name__}: {error}"[:200] for error in core.defects[:10]],
        }

    def news(self, cursor: str | None) -> tuple[list[bytes], str]:
        """Return the events since a cursor, and the cursor after them."""
        latest, pending, digest = _parsed(cursor)
        state = json_bytes(self.state())
        now = hashlib.sha256(state).hexdigest()[:16]
        events: list[bytes] = [] if now == digest else [_event("state", state)]
        entries = list(self._core.journal)
        if not entries or entries[-1].number < latest:
            latest, pending = (0, frozenset[int]()) if not entries else (entries[0].number - 1, pending)
        fresh = [entry for entry in entries if entry.number > latest]
        if cursor is None:
            fresh = fresh[-BATCH_MAX:]
        fresh = fresh[:BATCH_MAX]
        settled = [entry for entry in entries if entry.number in pending and entry.is_done]
        events += [_event("request", json_bytes(request_body(entry))) for entry in (*settled, *fresh)]
        open_now = [entry.number for entry in entries if entry.number in pending and not entry.is_done]
        open_now += [entry.number for entry in fresh if not entry.is_done]
        reached = fresh[-1].number if fresh else latest
        undecided = "-".join(map(str, open_now[-_PENDING_MAX:]))
        return events, f"{reached}.{undecided}.{now}"


class _Events:
    """One reply of the events: waits for news, says all of them, and ends.

    A client that speaks server-sent events comes back by itself, and says with `Last-Event-ID`
    what it has. So a stream needs no more of a host than any other reply.
    """

    def __init__(self, admin: Admin) -> None:
        self._admin = admin
        self._until: float | None = None

    def __call__(self, call: Call) -> Reply | Later:
        """Answer, or ask to be asked again."""
        return self._admin.guarded(call, self._carry_out)

    def _carry_out(self, call: Call) -> Reply | Later:
        if call.request.method not in {"GET", "HEAD"}:
            raise _no_method(call.request, "GET")
        if self._until is None:
            self._until = call.at.monotonic + EVENT_WAIT_SECONDS
        events, cursor = self._admin.news(call.request.header("last-event-id"))
        if not events and call.at.monotonic < self._until:
            return Later(EVENT_POLL_SECONDS)
        body = b"retry: %d\n\n%bid: %b\n\n" % (EVENT_RETRY_MILLISECONDS, b"".join(events), cursor.encode())
        return Reply(200, (("content-type", "text/event-stream"),), body)


TIERS: Final[tuple[str, ...]] = ("store", "l2")
ROUTES: Final = (
    Route((), {"GET": Admin.stats}),
    Route(("stats",), {"GET": Admin.stats}),
    Route(("faults",), {"GET": Admin.list_faults, "POST": Admin.add_fault, "DELETE": Admin.remove_faults}),
    Route(("faults", None), {"DELETE": Admin.remove_fault}),
    Route(("chaos",), {"GET": Admin.get_chaos, "PUT": Admin.set_chaos, "DELETE": Admin.remove_chaos}),
    Route(("conditions",), {"GET": Admin.list_conditions, "DELETE": Admin.remove_conditions}),
    Route(("conditions", None), {"PUT": Admin.set_condition, "DELETE": Admin.remove_condition}),
    Route(("journal",), {"GET": Admin.list_journal, "DELETE": Admin.clear_journal}),
    Route(("entries",), {"GET": Admin.list_entries}),
    Route(("entries", None, None), {"PUT": Admin.put_entry, "DELETE": Admin.remove_entry}),
    Route(("records", None, None), {"PUT": Admin.put_record}),
    Route(("reset",), {"POST": Admin.reset}),
)
"""Every route of the interface, below `ADMIN_PREFIX`; `events` is beside them, since it waits."""


def request_body(entry: Entry) -> dict[str, Any]:
    """Say a request of the journal, without headers and bodies: those carry tokens and secrets."""
    return {
        "number": entry.number,
        "at": entry.at.rfc3339(),
        "method": entry.method,
        "path": entry.path,
        "query": entry.request.query,
        "namespace": entry.namespace,
        "key": entry.key,
        "env": entry.env,
        "request_id": entry.request_id,
        "status": entry.status,
        "code": entry.code,
        "fault": entry.fault,
        "outcome": entry.outcome,
        "is_done": entry.is_done,
    }


def _stored_body(address: Address, stored: bytes | None) -> dict[str, Any]:
    shown: dict[str, Any] = {
        "namespace": address.namespace,
        "key": address.key,
        "environment": str(address.environment),
        "bytes": len(stored or b""),
    }
    try:
        record = cast("dict[str, Any]", json.loads(stored or b""))
        secret, value = bool(record["secret"]), record["value"]
        is_long = len(json_bytes(value)) > VALUE_SHOWN_BYTES
        return shown | {
            "version": record["version"],
            "secret": secret,
            "value": REDACTED_PLACEHOLDER if secret else None if is_long else value,
            "is_shortened": is_long and not secret,
            "updated_at": record["updated_at"],
            "updated_by": record["updated_by"],
            "is_broken": False,
        }
    except (ValueError, TypeError, KeyError, RecursionError):
        return shown | {"is_broken": True}


def _event(name: str, data: bytes) -> bytes:
    # JSON of ours has no line breaks outside of strings, and escapes those inside.
    return b"event: %b\ndata: %b\n\n" % (name.encode(), data)


def _parsed(cursor: str | None) -> tuple[int, frozenset[int], str]:
    found = _CURSOR.fullmatch(cursor or "0..0")
    if found is None:
        raise RefusedError("Last-Event-ID is none of this server's", "Last-Event-ID")
    numbers = frozenset(int(number) for number in found[2].split("-") if number)
    return int(found[1]), numbers, found[3]


def _by_status(counted: tuple[int | None, int]) -> int:
    return counted[0] or 0


def _match(text: str | MatchBody) -> Match:
    try:
        match = Match.parse(text) if isinstance(text, str) else Match(**text.model_dump())
        if match.env is not None:
            Environment.parse(match.env)
    except ValueError as error:
        raise RefusedError(str(error), "match") from error
    return match


def _steps(bodies: Iterable[StepBody]) -> list[Step]:
    return [body.step(f"steps.{place}") for place, body in enumerate(bodies)]


def _environment(name: str) -> Environment:
    try:
        return Environment.parse(name)
    except ValueError as error:
        raise RefusedError(str(error), "env") from error


def _component(visit: Visit) -> str:
    name = visit.arguments[0]
    if name not in COMPONENTS:
        raise RefusedError(
            f"unknown component {name[:64]!r}: expected one of {', '.join(COMPONENTS)}", "component"
        )
    return name


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")


def _no_route(request: Request) -> RefusedError:
    return RefusedError(
        f"No such route: {request.method} {request.path}", code=ErrorCode.NOT_FOUND, route=request.path
    )


def _no_method(request: Request, allow: str) -> RefusedError:
    return RefusedError(
        f"Method not allowed: {request.method} {request.path}",
        code=ErrorCode.INVALID_REQUEST,
        status=405,
        headers=(("allow", allow),),
        method=request.method,
    )


def _finished(reply: Reply, call: Call) -> Reply:
    return reply.with_headers(
        (REQUEST_ID_HEADER.lower(), call.request_id),
        ("date", formatdate(call.at.wall, usegmt=True)),
        *_SECURITY_HEADERS,
    )


def _is_loopback(peer: str) -> bool:
    try:
        address = ipaddress.ip_address(peer)
    except ValueError:
        return False
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return (mapped or address).is_loopback


def _is_loopback_host(host: str) -> bool:
    name = urlsplit(f"//{host}").hostname or ""
    return name == "localhost" or _is_loopback(name)
