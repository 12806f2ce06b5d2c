"""Faults: what is to go wrong, for which requests, how often.

A *rule* joins a `Match` to a sequence of *steps*. Of several rules that match, the one scripted
last wins. Each request takes the next step of its rule's sequence; `repeat` says what comes after
the last one:

- `"never"` (the default): the rule is spent and requests pass. `[error(…), error(…)]` fails twice.
- `"last"`: the last step again and again. `[ok(), error(…)]` passes once, then fails for good.
- `"all"`: the sequence from its beginning.
- `"random"`: any step, drawn anew for every request.

Where two are asked for at once (`between` and `every`, a probability and a sequence), both hold.
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, Final, Literal, Self, get_args

from llm_config_sdk.contract import CODES, VARIANTS, Environment, Module, VariantFacts

from .messages import AS_USUAL, At, Delivery, Drip, End, Header, Reply, Request

if TYPE_CHECKING:
    from contextlib import AbstractContextManager
    from types import TracebackType

    from .randomness import Randomness

Delay = float | tuple[float, float] | Callable[[random.Random], float]
"""Seconds: fixed, uniform between two bounds, or drawn by a function of a random source."""

Repeat = Literal["never", "last", "all", "random"]

CHAOS_RATE: Final = 0.1  # the guide's `inject_random_failure`
_FACTS_BY_NAME: Final = {str(code): facts for code, facts in CODES.items()}
_GARBAGE: Final = b"\x16\x03\x01\x00\xff\xfe not HTTP at all \x00\r\n\r\n"
_TRUNCATED_TO: Final = 10  # bytes: enough to look like the beginning of a JSON body
_OVERSIZED: Final = 8 * 1024 * 1024  # bytes: more than a client should take for a config
_DRIP_INTERVAL: Final = 0.05  # seconds: slow to a person, quick for a test
_P99_DEVIATIONS: Final = (
    2.326  # standard deviations from the median of a normal distribution to its 99th percentile
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Match:
    """Which requests a rule or a question is about; what is not given matches everything.

    Args:
        method: The method, in any letter case.
        path: A glob (`*`, `?`, `[…]`) of the raw path or of the percent-decoded one.
        namespace: A glob of the namespace.
        key: A glob of the config's key.
        env: An environment, by any of its names.
        headers: Globs of header values, by header name.
        token: A bearer token.
        connection: The rule is about new connections, not about requests.
    """

    method: str | None = None
    path: str | None = None
    namespace: str | None = None
    key: str | None = None
    env: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict[str, str])
    token: str | None = None
    connection: bool = False

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `"GET /health"`, `"POST"`, `"/api/v1/*"`, `"*"`, or a config: `"GET app/llm/model"`, `"a/*"`.

        Raises:
            ValueError: It is none of these.
        """
        words = text.split()
        method = words.pop(0).upper() if words and words[0].isalpha() else None
        path = words.pop(0) if words and words[0][0] in "/*" else None
        namespace = key = None
        if path is None and words and "/" in words[0]:
            namespace, _, key = words.pop(0).rpartition("/")
        if words or (method is None and path is None and namespace is None):
            raise ValueError(
                f"{text!r} is no match: expected a method, a path or a config (globs), or a method and one of"
                " them, as in 'GET /health' or 'GET app/llm/model'"
            )
        return cls(method=method, path=path, namespace=namespace, key=key or None)

    def covers(self, request: Request) -> bool:
        """Say whether a request is meant."""
        return (
            not self.connection
            and (self.method is None or self.method.upper() == request.method)
            and (
                self.path is None
                or any(_glob(path, self.path) for path in (request.path, request.decoded_path))
            )
            and (self.namespace is None or _glob(request.namespace, self.namespace))
            and (self.key is None or _glob(request.key, self.key))
            and (self.env is None or request.environment == str(Environment.parse(self.env)))
            and (self.token is None or self.token == request.token)
            and all(_glob(request.header(name), pattern) for name, pattern in self.headers.items())
        )

    def __str__(self) -> str:
        """Say it in the words of a failed assertion: `GET of app/llm/model in staging`."""
        if self.connection:
            return "connection"
        config = "/".join(
            part for part in (self.namespace, self.key or ("*" if self.namespace else None)) if part
        )
        words = [self.method.upper() if self.method else "request"]
        words += [f"of {config}"] if config else []
        words += [f"to {self.path}"] if self.path else []
        words += [f"in {self.env}"] if self.env else []
        words += [f"with {name}: {pattern}" for name, pattern in self.headers.items()]
        words += ["with a certain token"] if self.token else []
        return " ".join(words)


def _glob(text: str | None, pattern: str) -> bool:
    return text is not None and fnmatchcase(text, pattern)


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorSpec:
    """An error to be said in the words of the server's profile."""

    code: str
    status: int
    message: str
    details: Mapping[str, Any]
    retriable: bool
    retry_after: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Step:
    """What happens to one request.

    Args:
        name: What the journal calls it.
        effect: Whether the request really takes effect.
        error: The error to answer with.
        reply: The reply to answer with.
        transform: What is done to the real reply.
        before: How long to wait before the effect.
        after: How long to wait between the effect and the first byte.
        delivery: How the reply travels.
        early: Whether the head alone is answered, before the body is read.
        silent: Whether no reply is sent at all.
    """

    name: str
    effect: bool = True
    error: ErrorSpec | None = None
    reply: Reply | None = None
    transform: Callable[[Reply], Reply] | None = None
    before: Delay = 0.0
    after: Delay = 0.0
    delivery: Delivery = AS_USUAL
    early: bool = False
    silent: bool = False

    def __repr__(self) -> str:
        return f"<Step {self.name}>"

    @property
    def answers(self) -> bool:
        """Whether anything is sent that the step made itself."""
        return self.error is not None or self.reply is not None

    def after_effect(self) -> Step:
        """Return the same step, taken after the request took effect: the answer is lost, the write is not."""
        return replace(self, name=f"{self.name} after effect", effect=True, early=False)

    def at_head(self) -> Step:
        """Return the same step, taken as soon as the head is there, before the body is read."""
        if self.effect:
            raise ValueError(f"{self.name} lets the request take effect, which needs its body")
        return replace(self, early=True)

    def delayed(self, *, before: Delay = 0.0, after: Delay = 0.0) -> Step:
        """Return the same step with a wait (seconds) before the effect, or before the first byte."""
        return replace(self, before=before, after=after)


def ok() -> Step:
    """Let the request through."""
    return Step(name="ok")


def latency(before: Delay = 0.0, *, after: Delay = 0.0) -> Step:
    """Let the request through, slowly.

    Args:
        before: Seconds to wait before it takes effect.
        after: Seconds to wait between the effect and the first byte of the reply.
    """
    return Step(name="latency after effect" if after else "latency", before=before, after=after)


def long_tail(median: float, p99: float) -> Callable[[random.Random], float]:
    """Make a delay that is usually near its median and sometimes far above, as latency is in life.

        latency(long_tail(median=0.02, p99=0.5))

    Args:
        median: Seconds that half of the draws stay below.
        p99: Seconds that 99 of 100 draws stay below; the draws follow a log-normal distribution.

    Raises:
        ValueError: The figures are not positive, or the wrong way round.
    """
    if not 0 < median <= p99:
        raise ValueError(f"a long tail needs 0 < median <= p99, not {median} and {p99}")
    deviation = math.log(p99 / median) / _P99_DEVIATIONS
    return lambda source: source.lognormvariate(math.log(median), deviation)


def _delay_text(retry_after: float | str) -> str:
    """Write a Retry-After: whole seconds as RFC 9110 has them, and parts of one for tests in a hurry."""
    if isinstance(retry_after, float) and retry_after.is_integer():
        retry_after = int(retry_after)
    return str(retry_after)


def error(
    code: str | None = None,
    *,
    module: str | None = None,
    variant: str | None = None,
    status: int | None = None,
    message: str | None = None,
    details: Mapping[str, Any] | None = None,
    kind: str | None = None,
    retriable: bool | None = None,
    retry_after: float | str | None = None,
) -> Step:
    """Answer with an error, in the words of the server's profile; the request takes no effect.

    Args:
        code: One of the guide's seventeen codes, or any other word.
        module: The module of a variant; `variant="crypto.InvalidKey"` says both.
        variant: A variant of a module's error enum; the code follows from it.
        status: The HTTP status, where it is not the code's own.
        message: The message.
        details: Details beside the ones that module, variant and kind make.
        kind: The kind of an I/O error (`StorageFull`).
        retriable: What the envelope says, where it is not the table's word.
        retry_after: The header `Retry-After`: seconds, or an HTTP date.

    Raises:
        ValueError: Neither a code nor a variant is given, or there is no such variant.
    """
    told = dict(details or {})
    facts = None
    if variant is not None:
        if module is None and "." in variant:
            module, _, variant = variant.partition(".")
        facts = _variant_facts(module or Module.CONFIG, variant)
        told = {"module": str(facts.module), "variant": facts.variant, **told}
        code = code or facts.code
    elif module is not None:
        told = {"module": module, **told}
    if code is None:
        raise ValueError("error() needs a code or a variant")
    if kind is not None:
        told = {**told, "kind": kind}
    known = _FACTS_BY_NAME.get(str(code))
    by_table = facts.retriable if facts is not None else known is not None and known.retriable
    return Step(
        name=f"error {code}" if variant is None else f"error {told['module']}.{variant}",
        effect=False,
        error=ErrorSpec(
            code=str(code),
            status=status or (known.status if known else 500),
            message=message or (known.description if known else str(code)),
            details=told,
            retriable=by_table if retriable is None else retriable,
            retry_after=None if retry_after is None else _delay_text(retry_after),
        ),
    )


def _variant_facts(module: str, variant: str) -> VariantFacts:
    for (known_module, known_variant), facts in VARIANTS.items():
        if str(known_module) == module and known_variant == variant:
            return facts
    there = ", ".join(known for of, known in VARIANTS if str(of) == str(module))
    raise ValueError(f"the guide has no variant {module}.{variant}; of {module} it has {there or 'none'}")


def respond(
    status: int,
    body: bytes | str | dict[str, Any] | list[Any] = b"",
    *,
    content_type: str | None = None,
    headers: Mapping[str, str] | None = None,
) -> Step:
    """Answer with exactly this; the request takes no effect.

    Args:
        status: The HTTP status.
        body: Bytes, text, or data to be sent as JSON.
        content_type: The content type; by default what the body's type suggests, none for no body.
        headers: Other headers. `content-length` is the host's.
    """
    if isinstance(body, bytes):
        data, suggested = body, "application/octet-stream"
    elif isinstance(body, str):
        data, suggested = body.encode(), "text/plain; charset=utf-8"
    else:
        data, suggested = json.dumps(body).encode(), "application/json"
    pairs: list[Header] = []
    if content_type or data:
        pairs.append(("content-type", content_type or suggested))
    pairs += (headers or {}).items()
    return Step(name=f"respond {status}", effect=False, reply=Reply(status, tuple(pairs), data))


def html(status: int = 502, *, reason: str = "Bad Gateway") -> Step:
    """Answer as a proxy does before a server that is gone: a page for people."""
    page = (
        f"<html>\r\n<head><title>{status} {reason}</title></head>\r\n"
        f"<body>\r\n<center><h1>{status} {reason}</h1></center>\r\n<hr></body>\r\n</html>\r\n"
    )
    return replace(respond(status, page, content_type="text/html"), name=f"html {status}")


def malformed() -> Step:
    """Answer with half of the JSON that the real reply has, and a length that fits the half."""
    return Step(
        name="malformed",
        transform=lambda reply: replace(reply, body=reply.body[: len(reply.body) // 2] or b"{"),
    )


def oversized(size: int = _OVERSIZED) -> Step:
    """Answer with the real JSON and white space behind it, `size` bytes in all: valid, and too much."""
    return Step(name="oversized", transform=lambda reply: replace(reply, body=reply.body.ljust(size)))


def mislabelled(content_type: str = "text/html; charset=utf-8") -> Step:
    """Answer with the real body under another content type."""
    return Step(
        name="mislabelled", transform=lambda reply: reply.with_headers(("content-type", content_type))
    )


def reset(*, keep: int | None = None) -> Step:
    """Tear the connection down with RST; the request takes no effect.

    Args:
        keep: Bytes of the body to send first (the request then takes effect); `None` for no reply at all.
    """
    if keep is None:
        return Step(name="reset", effect=False, silent=True, delivery=Delivery(end=End.RESET))
    return Step(name="reset in the body", delivery=Delivery(cut_body=keep, end=End.RESET))


def close() -> Step:
    """Close the connection without a reply; the request takes no effect."""
    return Step(name="close", effect=False, silent=True, delivery=Delivery(end=End.CLOSE))


def half_close() -> Step:
    """Close the server's direction without a reply and go on reading; the request takes no effect."""
    return Step(name="half-close", effect=False, silent=True, delivery=Delivery(end=End.HALF_CLOSE))


def hang() -> Step:
    """Never answer; the request takes no effect."""
    return Step(name="hang", effect=False, silent=True, delivery=Delivery(end=End.HANG))


def stall(*, keep: int = _TRUNCATED_TO) -> Step:
    """Send the head and `keep` bytes of the body, then nothing more, with the connection left open."""
    return Step(name="stall", delivery=Delivery(cut_body=keep, end=End.HANG))


def truncate(*, keep: int = _TRUNCATED_TO, head: int | None = None) -> Step:
    """Cut the real reply short and close.

    Args:
        keep: Bytes of the body that are sent, at least one less than promised.
        head: Bytes of status line and headers that are sent, instead: not even the head is whole.
    """
    cut = Delivery(cut_head=head, cut_body=None if head is not None else keep, end=End.CLOSE)
    return Step(name="truncate" if head is None else "truncate in the head", delivery=cut)


def garbage(data: bytes = _GARBAGE) -> Step:
    """Answer with bytes that are no HTTP and close; the request takes no effect."""
    return Step(name="garbage", effect=False, silent=True, delivery=Delivery(raw=data, end=End.CLOSE))


def drip(
    interval: float = _DRIP_INTERVAL, *, size: int = 1, part: Literal["head", "body", "both"] = "body"
) -> Step:
    """Let the real reply trickle.

    Args:
        interval: Seconds between two pieces.
        size: Bytes in a piece.
        part: What trickles.
    """
    slow = Drip(interval, size)
    delivery = Delivery(head=None if part == "body" else slow, body=None if part == "head" else slow)
    return Step(name=f"drip of {'head and body' if part == 'both' else f'the {part}'}", delivery=delivery)


def stale(*, on_reuse: bool = False) -> Step:
    """Answer, say `keep-alive`, and let the idle connection go stale.

    Args:
        on_reuse: Close it only when the next request arrives, which is then lost unseen: what a
            client meets that loses the race. Else it is closed right after the reply.
    """
    if on_reuse:
        return Step(name="stale on reuse", delivery=Delivery(end=End.CLOSE_ON_REUSE))
    return Step(name="stale", delivery=Delivery(end=End.CLOSE))


Problem = Callable[[Match, Step], str | None]
"""Says what of a fault a host cannot carry, or `None`."""


@dataclass(frozen=True, slots=True)
class Pick:
    """A step that a rule chose for a request, with its delays drawn (seconds)."""

    step: Step
    before: float
    after: float


PASS: Final = Pick(ok(), 0.0, 0.0)


class Rule:
    """A scripted fault, armed: tells what became of it, and can be taken back.

    As a context manager it is taken back at the end of the block.
    """

    def __init__(
        self,
        book: FaultBook,
        number: int,
        match: Match,
        steps: Sequence[Step],
        *,
        repeat: Repeat,
        times: int,
        probability: float,
        between: tuple[float, float] | None,
        every: tuple[float, float] | None,
        since: float,
    ) -> None:
        """Arm a rule; `FaultBook.script` is how one is made."""
        self._book = book
        self.number = number
        self.match = match
        self.steps: tuple[Step, ...] = tuple(steps) * times
        self.repeat: Repeat = repeat
        self.probability = probability
        self.between = between
        self.every = every
        self.since = since
        self.judged: int = 0
        self.fired: int = 0

    @property
    def is_spent(self) -> bool:
        """Whether the rule has nothing left to do."""
        return self.repeat == "never" and self.fired >= len(self.steps)

    def remove(self) -> None:
        """Take the rule back; once more changes nothing."""
        self._book.remove(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.remove()

    def __repr__(self) -> str:
        names = ", ".join(step.name for step in self.steps)
        return f"<Rule {self.number}: {self.match} -> [{names}], repeat {self.repeat}, fired {self.fired}>"

    def pick(self, randomness: Randomness, at: At, *, early: bool) -> Pick | None:
        """Choose the step for a request that matches, or `None` where the rule lets it be.

        Args:
            randomness: Where draws derive from.
            at: Now.
            early: Only the head is there: nothing but a step at the head may be chosen, and
                nothing is counted unless one is.
        """
        if self.is_spent:
            return None
        if not self._is_time(at.monotonic - self.since):
            return None
        source = randomness.derive("rule", self.number, self.judged)
        drawn = self.probability >= 1.0 or source.random() < self.probability
        step = self._next(source) if drawn else None
        if early and (step is None or not step.early):
            return None
        self.judged += 1
        if step is None:
            return None
        self.fired += 1
        return Pick(step, _seconds(step.before, source), _seconds(step.after, source))

    def _is_time(self, age: float) -> bool:
        begin, end = self.between or (0.0, math.inf)
        if not begin <= age < end:
            return False
        if self.every is None:
            return True
        period, length = self.every
        return (age - begin) % period < length

    def _next(self, source: random.Random) -> Step:
        if self.repeat == "random":
            return source.choice(self.steps)
        if self.repeat == "all":
            return self.steps[self.fired % len(self.steps)]
        return self.steps[min(self.fired, len(self.steps) - 1)]


def _seconds(delay: Delay, source: random.Random) -> float:
    if callable(delay):
        return delay(source)
    return source.uniform(*delay) if isinstance(delay, tuple) else delay


class FaultBook:
    """The rules that are armed, newest first.

    Args:
        randomness: Where draws derive from.
        lock: Held while rules are read or changed, shared with the core.
    """

    def __init__(self, randomness: Randomness, lock: AbstractContextManager[object]) -> None:
        """Begin without rules."""
        self._randomness = randomness
        self._lock = lock
        self._rules: list[Rule] = []
        self._numbers = 0
        self._restrictions: dict[str, Problem] = {}

    def restrict(self, host: str, problem: Problem) -> None:
        """Refuse from now on to arm what a host cannot carry.

        Args:
            host: The host's name, for the message.
            problem: Says what of a fault it cannot carry, or `None`.

        Raises:
            ValueError: Something is armed already that the host cannot carry.
        """
        with self._lock:
            for rule in self._rules:
                _check_carried(host, problem, rule.match, rule.steps)
            self._restrictions[host] = problem

    def script(
        self,
        match: Match | str,
        steps: Step | Iterable[Step],
        *,
        repeat: Repeat = "never",
        times: int = 1,
        probability: float = 1.0,
        between: tuple[float, float] | None = None,
        every: tuple[float, float] | None = None,
        at: At | None = None,
    ) -> Rule:
        """Arm a rule.

        Args:
            match: Which requests; a string as `Match.parse` reads it.
            steps: What happens to them, one after the other.
            repeat: What comes after the last step (see the module).
            times: How often the whole sequence is gone through before that.
            probability: The share of the matching requests that the rule takes, between 0 and 1.
            between: When, in seconds since the rule was armed: from the first up to the second.
            every: In which part of that: of every so many seconds, the first so many.
            at: Now; the machine's clocks if left out.

        Raises:
            ValueError: No steps, a figure outside its range, or a fault that a host of this server
                cannot carry.
        """
        sequence = [steps] if isinstance(steps, Step) else list(steps)
        if not sequence:
            raise ValueError("a rule needs at least one step")
        if repeat not in get_args(Repeat):
            raise ValueError(f"repeat must be one of {', '.join(get_args(Repeat))}, not {repeat!r}")
        if times < 1:
            raise ValueError(f"times must be at least 1, not {times}")
        if not 0.0 <= probability <= 1.0:
            raise ValueError(f"probability must be between 0 and 1, not {probability}")
        _check_schedule(between, every)
        wanted = Match.parse(match) if isinstance(match, str) else match
        if wanted.env is not None:
            Environment.parse(wanted.env)
        if wanted.connection:
            _check_connection_steps(sequence)
        with self._lock:
            for host, problem in self._restrictions.items():
                _check_carried(host, problem, wanted, sequence)
            self._numbers += 1
            rule = Rule(
                self,
                self._numbers,
                wanted,
                sequence,
                repeat=repeat,
                times=times,
                probability=probability,
                between=between,
                every=every,
                since=(at or At.now()).monotonic,
            )
            self._rules.insert(0, rule)
            return rule

    def remove(self, rule: Rule) -> None:
        """Take a rule back; once more changes nothing."""
        with self._lock:
            if rule in self._rules:
                self._rules.remove(rule)

    def clear(self) -> None:
        """Take every rule back."""
        with self._lock:
            self._rules.clear()

    def __iter__(self) -> Iterator[Rule]:
        with self._lock:
            return iter(tuple(self._rules))

    def __len__(self) -> int:
        return len(self._rules)

    def __repr__(self) -> str:
        return f"FaultBook({self._rules!r})"

    def pick(self, request: Request, at: At, *, early: bool) -> Pick | None:
        """Choose what happens to a request, or `None` for nothing out of the ordinary."""
        for rule in self._rules:
            if rule.match.covers(request):
                chosen = rule.pick(self._randomness, at, early=early)
                if chosen is not None:
                    return chosen
        return None

    def pick_for_connection(self, at: At) -> Pick | None:
        """Choose what happens to a new connection, or `None` for nothing out of the ordinary."""
        for rule in self._rules:
            if rule.match.connection:
                chosen = rule.pick(self._randomness, at, early=False)
                if chosen is not None:
                    return chosen
        return None


def _check_connection_steps(steps: Iterable[Step]) -> None:
    for step in steps:
        passes = step.effect and step.delivery is AS_USUAL and step.transform is None
        if step.answers or step.transform is not None or (step.effect and not passes):
            raise ValueError(
                f"{step.name} is about a reply: a connection can be let through, late too, or be reset,"
                " closed, hung or sent garbage"
            )


def _check_schedule(between: tuple[float, float] | None, every: tuple[float, float] | None) -> None:
    if between is not None and not 0 <= between[0] < between[1]:
        raise ValueError(f"between must be two moments after each other, not {between}")
    if every is not None and not 0 < every[1] <= every[0]:
        raise ValueError(f"every must be a period and a shorter part of it, not {every}")


def _check_carried(host: str, problem: Problem, match: Match, steps: Iterable[Step]) -> None:
    for step in steps:
        reason = problem(match, step)
        if reason is not None:
            raise ValueError(
                f"{host} cannot carry the fault {step.name!r}: it {reason}; a MockServer on its socket can"
            )
