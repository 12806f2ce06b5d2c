#!/usr/bin/env python3
"""Break the wire under this client and under other SDKs, and write docs/explanation/comparison.md's table.

`make peers` runs it, in about two minutes. It is no part of the tests: what others do is theirs to change,
and what this client does has tests of its own (`tests/integration/test_fault_matrix.py`, `tests/sdk`).

An SDK is an entry in `SDKS`, a fault one in `FAULTS`. Every SDK is asked to read one thing, or to write one,
at a server on loopback that answers in that SDK's own protocol, and breaks as the fault says.
"""

from __future__ import annotations

import json
import logging
import os
import platform
import sys
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from email.utils import format_datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import anthropic
import hvac
import openai
import stripe

from llm_config_mock_server import MockServer, drip, hang, html, reset, respond
from llm_config_sdk import ConfigClient

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from llm_config_mock_server import Step

PAGE: Final = Path(__file__).resolve().parents[1] / "explanation" / "comparison.md"
BEGIN: Final = "<!-- Written by docs/tools/peers.py: run `make peers`. -->"
END: Final = "<!-- End of what docs/tools/peers.py wrote. -->"

TIMEOUT: Final = 0.5  # seconds, where a fault is about time
GRACE: Final = 0.05  # seconds
PATIENCE: Final = 8.0  # seconds after which a call is given up
LONG: Final = 400  # bytes: an answer that takes 20 s to drip

Json = dict[str, Any]


# --- Columns: who is asked ----------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class SDK:
    """A column.

    Args:
        name: What it is called, and its distribution.
        package: The package that its own errors are in.
        connect: Makes a client of an address, with the defaults but for what else is given.
        read: Reads one thing, and takes from it what a caller wants of it.
        write: Writes one thing.
        answer: What its service answers to the read.
        wanted: What the read returns then.
        envelope: How its service says an error: a status, and whether to ask again.
        final: The headers by which its service says that asking again is of no use.
        exempt: Faults that are none in its protocol, and why.
        remark: What a reader has to know of its defaults.
    """

    name: str
    package: str
    connect: Callable[..., Any]
    read: Callable[[Any], Any]
    write: Callable[[Any], Any]
    answer: Json
    wanted: str
    envelope: Callable[[int, bool], Json]
    final: Json = field(default_factory=dict)
    exempt: Json = field(default_factory=dict)
    remark: str = ""

    def error(self, status: int, *, retriable: bool = True, headers: Json | None = None) -> Step:
        """Answer with an error."""
        told = {**(headers or {}), **({} if retriable else self.final)}
        return respond(status, self.envelope(status, retriable), headers=told)

    def is_own(self, error: BaseException | None) -> bool:
        """Say whether an error is of the SDK's own making."""
        return error is not None and type(error).__module__.partition(".")[0] == self.package


def stripe_client(url: str, **options: float) -> stripe.StripeClient:
    """Make a client of Stripe's: its timeout is its HTTP client's."""
    http_client = stripe.RequestsClient(**options) if options else None
    return stripe.StripeClient("sk_test_key", base_addresses={"api": url}, http_client=http_client)


LOCKS: Final = (
    "The SDK asks again on purpose: a comment in its source says that a 409 is a lock that timed out."
)

OURS: Final = SDK(
    name="llm-config-sdk",
    package="llm_config_sdk",
    connect=lambda url, **options: ConfigClient(url, token="t", **options),  # noqa: S106  # no secret
    read=lambda client: client.get_config("app/llm", "model").value,
    write=lambda client: client.set_config("app/llm", "model", "wanted"),
    answer={
        "id": "2a4b4a55-d715-4188-9885-ff23c7245c9a",
        "namespace": "app/llm",
        "key": "model",
        "value": "wanted",
        "environment": "development",
        "version": 1,
        "secret": False,
        "metadata": {
            "created_at": "2026-01-01T00:00:00+00:00",
            "created_by": "a",
            "updated_at": "2026-01-01T00:00:00+00:00",
            "updated_by": "a",
            "tags": [],
            "description": None,
        },
    },
    wanted="wanted",
    envelope=lambda status, retriable: {
        "error": {
            "code": {409: "CONFLICT", 429: "RATE_LIMIT_EXCEEDED", 503: "SERVICE_UNAVAILABLE"}.get(
                status, "INTERNAL_ERROR"
            ),
            "message": "broken",
            "details": {},
            "timestamp": "2026-01-01T00:00:00Z",
            "request_id": "req_1",
            "retriable": retriable and status != 409,  # noqa: PLR2004  # a status of HTTP
        }
    },
)

SDKS: Final = (
    OURS,
    SDK(
        name="openai",
        package="openai",
        connect=lambda url, **options: openai.OpenAI(api_key="k", base_url=f"{url}/v1", **options),
        read=lambda client: client.models.retrieve("wanted").id,
        write=lambda client: client.embeddings.create(model="m", input="text"),
        answer={"id": "wanted", "object": "model", "created": 0, "owned_by": "someone"},
        wanted="wanted",
        envelope=lambda _, __: {
            "error": {"message": "broken", "type": "server_error", "param": None, "code": None}
        },
        final={"x-should-retry": "false"},
        exempt={"conflict": LOCKS},
    ),
    SDK(
        name="anthropic",
        package="anthropic",
        connect=lambda url, **options: anthropic.Anthropic(api_key="k", base_url=url, **options),
        read=lambda client: client.models.retrieve("wanted").id,
        write=lambda client: client.messages.create(
            model="m", max_tokens=1, messages=[{"role": "user", "content": "text"}]
        ),
        answer={
            "id": "wanted",
            "type": "model",
            "display_name": "Wanted",
            "created_at": "2026-01-01T00:00:00Z",
        },
        wanted="wanted",
        envelope=lambda _, __: {"type": "error", "error": {"type": "api_error", "message": "broken"}},
        final={"x-should-retry": "false"},
        exempt={"conflict": LOCKS},
    ),
    SDK(
        name="stripe",
        package="stripe",
        connect=stripe_client,
        read=lambda client: client.v1.customers.retrieve("wanted").id,
        write=lambda client: client.v1.customers.create({"name": "someone"}),
        answer={"id": "wanted", "object": "customer"},
        wanted="wanted",
        envelope=lambda _, __: {"error": {"type": "api_error", "message": "broken"}},
        final={"stripe-should-retry": "false"},
        remark=(
            "A `StripeClient` repeats nothing unless it is given `max_network_retries`;"
            " calls of the module do, twice."
        ),
    ),
    SDK(
        name="hvac",
        package="hvac",
        connect=lambda url, **options: hvac.Client(url, token="t", **options),  # noqa: S106  # no secret
        read=lambda client: client.secrets.kv.v2.read_secret_version("model", raise_on_deleted_version=True)[
            "data"
        ]["data"]["value"],
        write=lambda client: client.secrets.kv.v2.create_or_update_secret("model", {"value": "wanted"}),
        answer={"data": {"data": {"value": "wanted"}, "metadata": {"version": 1}}},
        wanted="wanted",
        envelope=lambda _, __: {"errors": ["broken"]},
        exempt={"final": "hvac knows no answer of Vault's that says so."},
        remark="hvac repeats nothing by itself; it can be given a session of requests that does.",
    ),
)


# --- What was seen ------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What one call came to.

    Args:
        sdk: Who was asked.
        requests: How often the server was asked; where none listens, how often it was tried.
        keys: The idempotency keys that it was asked with.
        seconds: How long it took.
        has_ended: Whether it ended by itself.
        value: What it returned.
        error: What it raised.
    """

    sdk: SDK
    requests: int
    keys: frozenset[str | None]
    seconds: float
    has_ended: bool
    value: object = None
    error: BaseException | None = None

    @property
    def raised_own(self) -> bool:
        """Whether it raised an error of the SDK's own."""
        return self.sdk.is_own(self.error)

    @property
    def returned_wanted(self) -> bool:
        """Whether it returned what there is."""
        return self.has_ended and self.error is None and self.value == self.sdk.wanted

    @property
    def was_repeated(self) -> bool:
        """Whether the server was asked more than once."""
        return self.requests > 1

    @property
    def was_sent_once(self) -> bool:
        """Whether it was sent once, or under one idempotency key that makes the rest harmless."""
        return self.requests == 1 or (len(self.keys) == 1 and None not in self.keys)

    @property
    def kept_deadline(self) -> bool:
        """Whether it ended when it was to end, with an error of the SDK's own."""
        return self.raised_own and TIMEOUT <= self.seconds <= TIMEOUT + GRACE

    @property
    def carries_retry_after(self) -> bool:
        """Whether the error tells when to come back, by an attribute or by the answer's headers."""
        sources = (self.error, getattr(self.error, "response", None))
        told = {str(getattr(self.error, "retry_after", None))}
        told |= {str((getattr(source, "headers", None) or {}).get("retry-after")) for source in sources}
        return bool(told & {"3600", "3600.0"})

    def __str__(self) -> str:
        """Say it in a cell's words."""
        if not self.has_ended:
            return f"{self.requests}, {PATIENCE:g} s and no end"
        outcome = f"`{self.value!r}`" if self.error is None else f"`{name_of(self.error)}`"
        return f"{self.requests}, {self.seconds:.2f} s, {outcome}"


def name_of(error: BaseException) -> str:
    """Name an error, and the library that it is of, unless that is Python itself."""
    kind = type(error)
    library = kind.__module__.partition(".")[0]
    return kind.__name__ if library == "builtins" else f"{library}.{kind.__name__}"


# --- Rows: what breaks --------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Fault:
    """A row.

    Args:
        name: What an SDK calls it that is exempt.
        says: What breaks, and what is to come of it.
        steps: What the server does, the last step again and again; `None`: none listens.
        is_met: Whether that is what came of it.
        is_write: Whether something is written.
        options: Settings of the client beside its defaults.
    """

    name: str
    says: str
    steps: Callable[[SDK], list[Step]] | None
    is_met: Callable[[Seen], bool]
    is_write: bool = False
    options: Json = field(default_factory=dict)


def answered(sdk: SDK) -> Step:
    """Answer as the service does."""
    return respond(200, sdk.answer)


def limited(retry_after: Callable[[], str]) -> Callable[[SDK], list[Step]]:
    """Ask to come back later, once."""
    return lambda sdk: [sdk.error(429, headers={"retry-after": retry_after()}), answered(sdk)]


def dripped(part: Any) -> Callable[[SDK], list[Step]]:
    """Answer a byte at a time, every 50 ms."""
    return lambda sdk: [
        replace(
            respond(200, json.dumps(sdk.answer).ljust(LONG), content_type="application/json"),
            delivery=drip(part=part).delivery,
        )
    ]


def truncated(sdk: SDK) -> Step:
    """Answer with half of the JSON, and a length that fits the half."""
    text = json.dumps(sdk.answer)
    return respond(200, text[: len(text) // 2], content_type="application/json")


def in_two_seconds() -> str:
    """Write the date in one to two seconds: HTTP's dates have whole ones."""
    return format_datetime(datetime.fromtimestamp(int(time.time()) + 2, UTC), usegmt=True)


FAULTS: Final = (
    Fault(
        name="unavailable",
        says="503: asked again",
        steps=lambda sdk: [sdk.error(503)],
        is_met=lambda seen: seen.was_repeated and seen.raised_own,
    ),
    Fault(
        name="final",
        says="500 that says it is final: asked once",
        steps=lambda sdk: [sdk.error(500, retriable=False)],
        is_met=lambda seen: seen.requests == 1 and seen.raised_own,
    ),
    Fault(
        name="conflict",
        says="409: asked once",
        steps=lambda sdk: [sdk.error(409)],
        is_met=lambda seen: seen.requests == 1 and seen.raised_own,
    ),
    Fault(
        name="post",
        says="POST, 503: sent once, or under one `Idempotency-Key`",
        steps=lambda sdk: [sdk.error(503)],
        is_met=lambda seen: seen.was_sent_once and seen.raised_own,
        is_write=True,
    ),
    Fault(
        name="seconds",
        says="429, `Retry-After: 1`: answered after about 1 s",
        steps=limited(lambda: "1"),
        is_met=lambda seen: seen.returned_wanted and 1.0 <= seen.seconds <= 2.0,  # noqa: PLR2004
    ),
    Fault(
        name="date",
        says="429, `Retry-After` as a date in 1 to 2 s: answered then",
        steps=limited(in_two_seconds),
        is_met=lambda seen: seen.returned_wanted and 0.95 <= seen.seconds <= 3.0,  # noqa: PLR2004
    ),
    Fault(
        name="hour",
        says="429, `Retry-After: 3600`: raised at once, with the 3600",
        steps=lambda sdk: [sdk.error(429, headers={"retry-after": "3600"})],
        is_met=lambda seen: seen.requests == 1 and seen.raised_own and seen.carries_retry_after,
    ),
    Fault(
        name="html 502",
        says="502 with a page of HTML: no markup in the message",
        steps=lambda _: [html(502)],
        is_met=lambda seen: seen.raised_own and "<" not in str(seen.error),
    ),
    Fault(
        name="html 200",
        says="200 with a page of HTML: an error of the SDK's own",
        steps=lambda _: [html(200, reason="OK")],
        is_met=lambda seen: seen.raised_own,
    ),
    Fault(
        name="empty 200",
        says="200 with nothing: an error of the SDK's own",
        steps=lambda _: [respond(200, content_type="application/json")],
        is_met=lambda seen: seen.raised_own,
    ),
    Fault(
        name="truncated",
        says="200 with half of the JSON: an error of the SDK's own",
        steps=lambda sdk: [truncated(sdk)],
        is_met=lambda seen: seen.raised_own,
    ),
    Fault(
        name="reset",
        says="Connection reset: asked again, then an error of the SDK's own",
        steps=lambda _: [reset()],
        is_met=lambda seen: seen.was_repeated and seen.raised_own,
    ),
    Fault(
        name="refused",
        says="Connection refused: tried again, then an error of the SDK's own",
        steps=None,
        is_met=lambda seen: seen.was_repeated and seen.raised_own,
    ),
    Fault(
        name="hang",
        says="No answer, `timeout=0.5`: an error after 0.50 to 0.55 s",
        steps=lambda _: [hang()],
        is_met=lambda seen: seen.kept_deadline,
        options={"timeout": TIMEOUT},
    ),
    Fault(
        name="head",
        says="Head a byte at a time, `timeout=0.5`: the same",
        steps=dripped("head"),
        is_met=lambda seen: seen.kept_deadline,
        options={"timeout": TIMEOUT},
    ),
    Fault(
        name="body",
        says="Body a byte at a time, `timeout=0.5`: the same",
        steps=dripped("body"),
        is_met=lambda seen: seen.kept_deadline,
        options={"timeout": TIMEOUT},
    ),
)
NO_STRANGERS: Final = "All of these: no exception of another library, or of Python's, gets out"


# --- Asking -------------------------------------------------------------------------------------------

tried: list[int] = []  # the ports of all connections that this process tried to make


def count_connections(event: str, arguments: tuple[Any, ...]) -> None:
    """Write down a connection; an audit hook, which no library can pass by."""
    if event == "socket.connect" and isinstance(arguments[1], tuple):
        tried.append(arguments[1][1])


def ask(sdk: SDK, fault: Fault) -> Seen:
    """Break one thing under one SDK."""
    with MockServer() as server:
        client = sdk.connect(server.url, **fault.options)
        port = server.port
        if fault.steps is None:
            server.stop()
        else:
            server.script("*", fault.steps(sdk), repeat="last")
        tried.clear()
        ended: dict[str, Any] = {}
        started = time.monotonic()

        def call() -> None:
            try:
                ended["value"] = (sdk.write if fault.is_write else sdk.read)(client)
            except Exception as error:  # noqa: BLE001  # whatever comes is what is looked for
                ended["error"] = error
            ended["at"] = time.monotonic()

        caller = threading.Thread(target=call, daemon=True)
        caller.start()
        caller.join(PATIENCE)
        told = dict(ended)
        requests = list(server.journal)
    if close := getattr(client, "close", None):
        with suppress(Exception):  # a client in the middle of a call is of no interest any more
            close()
    return Seen(
        sdk=sdk,
        requests=tried.count(port) if fault.steps is None else len(requests),
        keys=frozenset(entry.request.header("idempotency-key") for entry in requests),
        seconds=told.get("at", time.monotonic()) - started,
        has_ended="at" in told,
        value=told.get("value"),
        error=told.get("error"),
    )


# --- The table ----------------------------------------------------------------------------------------


def line(cells: list[str]) -> str:
    """Write a line of a table."""
    return f"| {' | '.join(cells)} |"


def block() -> Iterator[str]:
    """Break everything, and write what came of it."""
    notes: list[str] = []
    strangers: dict[str, set[str]] = {sdk.name: set() for sdk in SDKS}

    def noted(reason: str) -> str:
        if reason not in notes:
            notes.append(reason)
        return f"({notes.index(reason) + 1})"

    def cell(sdk: SDK, fault: Fault) -> str:
        seen = ask(sdk, fault)
        if seen.error is not None and not seen.raised_own:
            strangers[sdk.name].add(f"`{name_of(seen.error)}`")
        if reason := sdk.exempt.get(fault.name):
            return f"– {noted(reason)} {seen}"  # noqa: RUF001  # the dash is meant
        return f"{'✓' if fault.is_met(seen) else '✗'} {seen}"

    heads = [f"{sdk.name} {noted(sdk.remark)}" if sdk.remark else sdk.name for sdk in SDKS]
    rows = [[fault.says, *(cell(sdk, fault) for sdk in SDKS)] for fault in FAULTS]
    others = [f"✗ {', '.join(sorted(found))}" if found else "✓" for found in strangers.values()]
    versions = ", ".join(f"{sdk.name} {version(sdk.name)}" for sdk in SDKS)
    yield BEGIN
    yield f"By `make peers` on {datetime.now(UTC):%Y-%m-%d}, Python {platform.python_version()}: {versions}."
    yield "\n".join(
        [
            line(["", *heads]),
            "|---" * (len(SDKS) + 1) + "|",
            *map(line, rows),
            line([NO_STRANGERS, *others]),
        ]
    )
    yield "\n".join(f"{number}. {note}" for number, note in enumerate(notes, 1))
    yield END


def main() -> None:
    """Show the table, and put it where the page has the last one."""
    os.environ["NO_PROXY"] = "127.0.0.1"
    logging.disable()
    sys.addaudithook(count_connections)
    text = "\n\n".join(block())
    sys.stdout.write(f"{text}\n")
    before, _, rest = PAGE.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    PAGE.write_text(f"{before}{text}{after}")


if __name__ == "__main__":
    main()
