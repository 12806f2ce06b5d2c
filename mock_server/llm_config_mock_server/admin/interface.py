"""The interface: its routes, and what each of them does to the server."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from email.utils import formatdate
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import unquote

from llm_config_mock_server.conditions import COMPONENTS, KINDS, ComponentFailureError, Condition
from llm_config_mock_server.faults import ErrorSpec, Match, Rule, Step
from llm_config_mock_server.messages import Reply, json_reply
from llm_config_mock_server.profiles import load_profile
from llm_config_mock_server.vault import CryptoError
from llm_config_sdk.contract import (
    API_PREFIX,
    CODES,
    REDACTED_PLACEHOLDER,
    REQUEST_ID_HEADER,
    ErrorCode,
)

from .bodies import ChaosBody, ConditionBody, EntryBody, FaultBody, match_of, steps_of
from .callers import check_caller
from .events import Feed
from .refusals import RefusedError, no_method, no_route
from .views import request_body, stored_body
from .visit import Visit, parse_environment

if TYPE_CHECKING:
    from llm_config_mock_server.core import Aside as Answerer, Call, Core
    from llm_config_mock_server.messages import Request
    from llm_config_mock_server.server import MockServer

ADMIN_PREFIX: Final = f"{API_PREFIX}/admin"
LIST_DEFAULT: Final = 100  # items of a list, unless asked for more
LIST_MAX: Final = 1000
RULES_MAX: Final = 1000  # armed at once: a bound for what a runaway script may pile up
_STEPS_SHOWN: Final = 20
_SECURITY_HEADERS: Final = (
    ("cache-control", "no-store"),
    ("x-content-type-options", "nosniff"),
    ("cross-origin-resource-policy", "same-origin"),
)

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
        self._feed = Feed(core, self.state)

    def answerer(self, request: Request) -> Answerer | None:
        """Return what answers a request, or `None` where it is not for the interface."""
        path = request.path
        if path != ADMIN_PREFIX and not path.startswith(f"{ADMIN_PREFIX}/"):
            return None
        return self._answer

    def _answer(self, call: Call) -> Reply:
        """Carry a request out, if whoever sent it may; every failure is the guide's envelope."""
        try:
            said = self._carry_out(call)
        except RefusedError as error:
            said = self._refusal(error, call)
        except ComponentFailureError as error:
            refusal = RefusedError(
                f"Storage error: {error.component} {error.message}",
                code=ErrorCode.STORAGE_ERROR,
                kind=error.kind,
            )
            said = self._refusal(refusal, call)
        return _finished(said, call)

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

    def _carry_out(self, call: Call) -> Reply:
        request, rbac = call.request, self._core.platform.rbac
        if request.path == f"{ADMIN_PREFIX}/events":
            check_caller(request, rbac, is_vouched_for=self._feed.takes_ticket(call))
            return self._feed.reply(call)
        check_caller(request, rbac)
        if request.path == f"{ADMIN_PREFIX}/events/tickets":
            return self._feed.issue_ticket(call)
        segments = [part for part in request.path.removeprefix(ADMIN_PREFIX).split("/")[1:] if part]
        for route in ROUTES:
            arguments = route.arguments(segments)
            if arguments is None:
                continue
            handler = route.handlers.get("GET" if request.method == "HEAD" else request.method)
            if handler is None:
                raise no_method(request, ", ".join(sorted(route.handlers)))
            return handler(self, Visit(call, arguments))
        raise no_route(request)

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
            match_of(body.match),
            steps_of(body.steps),
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
        steps, match = None if body.steps is None else steps_of(body.steps), match_of(body.match)
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
        try:
            self._core.platform.conditions[component] = Condition(body.kind, body.count)
        except ValueError as error:
            raise RefusedError(str(error), "kind") from error
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
        environment = None if env is None else parse_environment(env)
        storage = self._core.platform.store.storage
        addresses = sorted(
            address
            for address in storage.addresses()
            if (namespace is None or address.namespace == namespace)
            and (environment is None or address.environment == environment)
        )
        shown = [
            stored_body(address, storage.read(address)) for address in addresses[offset : offset + limit]
        ]
        return json_reply(200, {"entries": shown, "in_all": len(addresses)})

    def put_entry(self, visit: Visit) -> Reply:
        """Write an entry past roles, faults and audit."""
        body = visit.body(EntryBody)
        address = visit.address(parse_environment(body.env))
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
                "last": entries[-1].number if entries else None,
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
"""Every route of the interface, below `ADMIN_PREFIX`; those of the events are the feed's."""


def _by_status(counted: tuple[int | None, int]) -> int:
    return counted[0] or 0


def _component(visit: Visit) -> str:
    name = visit.arguments[0]
    if name not in COMPONENTS:
        raise RefusedError(
            f"unknown component {name[:64]!r}: expected one of {', '.join(COMPONENTS)}", "component"
        )
    return name


def _finished(reply: Reply, call: Call) -> Reply:
    return reply.with_headers(
        (REQUEST_ID_HEADER.lower(), call.request_id),
        ("date", formatdate(call.at.wall, usegmt=True)),
        *_SECURITY_HEADERS,
    )
