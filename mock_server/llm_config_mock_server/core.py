"""The core: a request, the time and a random source in; an outcome out. No sockets, no clocks, no waiting.

A host asks `Core.connect` for every connection and `Core.begin` for every head; the `Exchange` it
gets is asked `answer_head` once the head is there and `answer` once the body is. Wherever the
answer is `Later`, the host waits that long and asks the same question again.
"""

from __future__ import annotations

import string
from collections.abc import Callable
from dataclasses import dataclass, replace
from threading import RLock
from typing import TYPE_CHECKING, Any, Final, Protocol

from llm_config_sdk.contract import REQUEST_ID_HEADER

from .audit import AuditLog
from .conditions import Conditions
from .faults import PASS, ErrorSpec, FaultBook, Pick
from .idempotency import IdempotencyKeys
from .journal import Entry, Journal
from .limiter import Limiter, Limits
from .messages import AS_USUAL, At, Delivery, Later, Outcome, Reply, Request
from .rbac import Rbac
from .reading import Reader
from .server_cache import ServerCache
from .store import Record, Store
from .vault import Vault

if TYPE_CHECKING:
    from .randomness import Randomness
    from .storage import Address, Storage

BODY_MAX_BYTES: Final = 2 * 1024 * 1024  # where the platform's published server stops reading
VALUE_MAX_BYTES: Final = 1024 * 1024  # of JSON; our choice: the guide names none
REQUEST_ID_MAX_LENGTH: Final = 128  # characters; a longer id is not kept
_REQUEST_ID_CHARACTERS: Final = frozenset(string.ascii_letters + string.digits + "-_.:/+=@")


@dataclass(frozen=True, slots=True)
class Options:
    """What a server was told to be like.

    Args:
        auth: Whether a bearer token is asked for.
        value_max_bytes: The longest value, in bytes of JSON.
        body_max_bytes: The longest body of a request.
        caching: Whether reads go through the server's cache.
    """

    auth: bool = True
    value_max_bytes: int = VALUE_MAX_BYTES
    body_max_bytes: int = BODY_MAX_BYTES
    caching: bool = True


class Platform:
    """The platform's components, which every profile works on.

    Args:
        storage: Where records lie.
        randomness: Where ids and tokens come from.
        options: What the server was told to be like.
        limits: The rate limit of a caller, or `None`.
        encryption_key: Key 1 of the vault: 32 bytes, or `None`.
        vault_origin: What the vault's wrapping key follows from where there is no key 1.
    """

    def __init__(
        self,
        storage: Storage,
        randomness: Randomness,
        options: Options,
        *,
        limits: Limits | None,
        encryption_key: bytes | None,
        vault_origin: bytes = b"",
    ) -> None:
        """Put the components together."""
        self.randomness = randomness
        self.options = options
        self.conditions: Conditions = Conditions()
        self.store: Store = Store(storage, self.conditions)
        self.cache: ServerCache = ServerCache(self.conditions, self.store)
        self.reader: Reader = Reader(self.store, self.cache, self.conditions, caching=options.caching)
        self.rbac: Rbac = Rbac(self.conditions, randomness, storage)
        self.vault: Vault = Vault(self.conditions, storage, encryption_key, origin=vault_origin)
        self.audit: AuditLog = AuditLog(self.conditions, storage)
        self.limiter: Limiter | None = None if limits is None else Limiter(limits)
        self.idempotency: IdempotencyKeys = IdempotencyKeys(storage)
        self.sealed_here: set[str] = set()  # the etags of records whose secret this very process sealed

    def reset(self) -> None:
        """Go back to the beginning; users and their tokens stay valid."""
        self.conditions.clear()
        self.store.storage.clear("audit", "idempotency", "roles", "vault")
        self.store.changes += 1
        self.cache.reset()
        self.idempotency.reset()
        self.sealed_here.clear()
        if self.limiter is not None:
            self.limiter.reset()


@dataclass(frozen=True, slots=True)
class Call:
    """A request on its way through a profile.

    Args:
        request: The request.
        at: Now.
        request_id: Its id.
        owner: What stands for the request while it runs.
    """

    request: Request
    at: At
    request_id: str
    owner: object


Aside = Callable[[Call], Reply | Later]
"""Answers a request about the server itself; asked again after a `Later`."""


class Profile(Protocol):
    """How a server of the platform speaks: routes, checks and the words of its errors."""

    @property
    def name(self) -> str:
        """The profile's name."""
        ...

    @property
    def default_limits(self) -> Limits | None:
        """The rate limit that the profile documents, or `None`."""
        ...

    def reset(self) -> None:
        """Forget what the profile keeps of its own."""
        ...

    def entry(self, address: Address, record: Record, value: Any) -> dict[str, Any]:
        """Say a record as an entry of the wire, with a value in place of its own."""
        ...

    def answer_head(self, platform: Platform, call: Call) -> Reply | None:
        """Refuse a request by its head alone, or return `None` to have its body read."""
        ...

    def reserve(self, platform: Platform, call: Call) -> None:
        """Note that a request runs, before it is made to wait."""
        ...

    def answer(self, platform: Platform, call: Call) -> Reply:
        """Carry a request out. Every failure of the platform's is a reply."""
        ...

    def error(self, spec: ErrorSpec, call: Call) -> Reply:
        """Say a scripted error."""
        ...

    def refuse(self, status: int, reason: str, call: Call) -> Reply:
        """Say that the HTTP itself is wrong (400, 413, 414, 431)."""
        ...

    def finish(self, reply: Reply, call: Call) -> Reply:
        """Add what every reply carries."""
        ...


class Core:
    """A server without a wire. Thread-safe: every step holds `lock`, and none of them waits.

    Args:
        profile: How it speaks.
        platform: What it is made of.
    """

    def __init__(self, profile: Profile, platform: Platform) -> None:
        """Begin with an empty journal and no faults."""
        self.profile = profile
        self.platform = platform
        self.lock: RLock = RLock()
        self.faults: FaultBook = FaultBook(platform.randomness, self.lock)
        self.journal: Journal = Journal()
        self.defects: list[Exception] = []
        self.aside: Callable[[Request], Aside | None] | None = None
        self._asides = 0

    def reset(self) -> None:
        """Go back to the beginning: no entries, faults, conditions or journal; tokens stay valid."""
        with self.lock:
            self.platform.reset()
            self.profile.reset()
            self.faults.clear()
            self.journal.clear()
            self.defects.clear()

    def connect(self, at: At) -> Delivery | None:
        """Say what happens to a new connection, or `None` for nothing out of the ordinary."""
        with self.lock:
            pick = self.faults.pick_for_connection(at)
        delay = 0.0 if pick is None else pick.before + pick.after
        if pick is None or (pick.step.delivery is AS_USUAL and not delay):
            return None
        return replace(pick.step.delivery, delay=delay)

    def begin(self, head: Request, at: At) -> Exchange:
        """Take up a request whose head is there."""
        with self.lock:
            sent = head.header(REQUEST_ID_HEADER)
            own = sent if sent is not None and _is_request_id(sent) else None
            aside = None if self.aside is None else self.aside(head)
            if aside is not None:
                self._asides += 1
                request_id = own or f"aside_{self._asides}"
                unlisted = Entry(number=0, at=at, request=head, request_id=request_id)
                return AsideExchange(self, head, request_id, unlisted, aside)
            request_id = own or self.platform.randomness.request_id()
            return Exchange(self, head, request_id, self.journal.opened(head, request_id, at))

    def refuse(self, status: int, reason: str, at: At) -> Reply:
        """Answer what could not be parsed as a request."""
        with self.lock:
            call = Call(Request("", ""), at, self.platform.randomness.request_id(), None)
            return self.profile.finish(self.profile.refuse(status, reason, call), call)


def _is_request_id(sent: str) -> bool:
    return 0 < len(sent) <= REQUEST_ID_MAX_LENGTH and _REQUEST_ID_CHARACTERS.issuperset(sent)


class Exchange:
    """One request, from its head to its outcome."""

    def __init__(self, core: Core, request: Request, request_id: str, entry: Entry) -> None:
        """Take up a request; `Core.begin` is how one is made."""
        self._core = core
        self._entry = entry
        self._pick: Pick | None = None
        self._has_waited = False
        self.request: Request = request
        self.request_id = request_id

    def answer_head(self, at: At) -> Outcome | Later | None:
        """Answer by the head alone, or return `None` to have the body read."""
        core = self._core
        with core.lock:
            if self._pick is None:
                self._pick = core.faults.pick(self.request, at, early=True)
            if self._pick is not None:
                return self._carry_out(self._pick, at)
            call = self._call(at)
            reply = core.profile.answer_head(core.platform, call)
            return None if reply is None else self._settled(Outcome(core.profile.finish(reply, call)), None)

    def answer(self, body: bytes, at: At) -> Outcome | Later:
        """Answer, now that the body is there."""
        core = self._core
        with core.lock:
            if self._pick is None:
                self.request = self.request.with_body(body)
                self._pick = core.faults.pick(self.request, at, early=False) or PASS
            return self._carry_out(self._pick, at)

    def refuse(self, status: int, reason: str, at: At) -> Outcome:
        """Answer what turned out, after its head, not to be a request that can be read."""
        core = self._core
        with core.lock:
            call = self._call(at)
            reply = core.profile.finish(core.profile.refuse(status, reason, call), call)
            return self._settled(Outcome(reply), None)

    def abandon(self) -> None:
        """Give up: the client went, or the server stopped, before there was an outcome."""
        with self._core.lock:
            self._core.platform.idempotency.release(self)
            self._core.journal.settled(self._entry, self.request, Outcome(None), "abandoned")

    def _call(self, at: At) -> Call:
        return Call(self.request, at, self.request_id, self)

    def _carry_out(self, pick: Pick, at: At) -> Outcome | Later:
        core, step, call = self._core, pick.step, self._call(at)
        profile = core.profile
        if pick.before and not self._has_waited:
            self._has_waited = True
            if step.effect:
                profile.reserve(core.platform, call)
            return Later(pick.before)
        reply: Reply | None = None
        if step.effect:
            reply = profile.finish(self._effect(call), call)
            core.platform.idempotency.release(self)
        if step.error is not None:
            reply = profile.finish(profile.error(step.error, call), call)
        elif step.reply is not None:
            reply = step.reply
        elif step.transform is not None and reply is not None:
            reply = step.transform(reply)
        if step.silent:
            reply = None
        delivery = replace(step.delivery, delay=pick.after) if pick.after else step.delivery
        return self._settled(Outcome(reply, delivery), None if pick is PASS else step.name)

    def _effect(self, call: Call) -> Reply:
        core = self._core
        try:
            return core.profile.answer(core.platform, call)
        except Exception as error:  # noqa: BLE001 - a defect of this server: answered as one, and kept for the test to see
            core.defects.append(error)
            spec = ErrorSpec(
                code="INTERNAL_ERROR",
                status=500,
                message=f"internal error: {type(error).__name__}",
                details={"module": "config", "variant": "InternalError"},
                retriable=True,
            )
            return core.profile.error(spec, call)

    def _settled(self, outcome: Outcome, fault: str | None) -> Outcome:
        self._core.journal.settled(self._entry, self.request, outcome, fault)
        return outcome


class AsideExchange(Exchange):
    """A request about the server itself: no fault meets it, and the journal does not know of it."""

    def __init__(self, core: Core, request: Request, request_id: str, entry: Entry, aside: Aside) -> None:
        """Take up a request; `Core.begin` is how one is made."""
        super().__init__(core, request, request_id, entry)
        self._aside = aside

    def answer_head(self, at: At) -> Outcome | Later | None:  # noqa: ARG002 - there is nothing that a head alone decides
        """Have the body read."""
        return None

    def answer(self, body: bytes, at: At) -> Outcome | Later:
        """Answer, now that the body is there."""
        core = self._core
        with core.lock:
            self.request: Request = self.request.with_body(body)
            call = self._call(at)
            try:
                said = self._aside(call)
            except Exception as error:  # noqa: BLE001 - a defect of this server: answered as one, and kept for the test to see
                core.defects.append(error)
                return Outcome(core.profile.refuse(500, f"internal error: {type(error).__name__}", call))
            return said if isinstance(said, Later) else Outcome(said)
