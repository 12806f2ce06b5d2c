"""What `doctor` finds out: one endpoint, asked with a few harmless reads, and judged.

Nothing here is retried, cached or failed over: each finding is of one answer, as it came.
"""

from __future__ import annotations

import ipaddress
import json
import secrets
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final, Literal, cast

from llm_config_sdk.cli.exits import Exit
from llm_config_sdk.cli.output import shell_hint
from llm_config_sdk.decoding import Reply, decode_error, read_entry, read_health
from llm_config_sdk.errors import ConnectFailedError, LLMConfigError, ResponseDecodeError, one_line
from llm_config_sdk.operations import encode_segment
from llm_config_sdk.transport import Endpoint, Transport, WireRequest

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

Standing = Literal["ok", "note", "problem"]
Check = Literal["reachable", "tls", "profile", "forwarded", "token", "encoding", "clock", "rate limit"]
Profile = Literal["guide", "upstream-0.5"]

SKEW_ALLOWED: Final = 5.0  # seconds; the Date header has whole ones, and the way there takes its time
FORWARDED: Final = {"X-Forwarded-Proto": "https"}
NAMESPACE: Final = "doctor/encoding"  # one slash, which has to survive the path
_PLAIN_NAMESPACE: Final = "doctor"
_RATE_HEADERS: Final = ("x-ratelimit-limit", "x-ratelimit-remaining", "x-ratelimit-reset")
_MILLISECONDS: Final = 1000


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was found out.

    Attributes:
        check: What was looked at.
        standing: `ok`; `note` for what is worth knowing and keeps nothing from working; `problem`.
        says: What was found, in a sentence.
        fix: What to do about it, in a sentence; empty where there is nothing to do.
        code: What the command ends with because of a problem.
    """

    check: Check
    standing: Standing
    says: str
    fix: str = ""
    code: Exit = Exit.INVALID


@dataclass(slots=True)
class Examination:
    """One endpoint and what was found out about it.

    Attributes:
        url: Its base URL.
        role: `primary` or `backup`.
        profile: How it speaks, where that could be told.
        findings: In the order they were made.
    """

    url: str
    role: Literal["primary", "backup"]
    profile: Profile | None = None
    findings: list[Finding] = field(default_factory=list[Finding])


def verdict(examinations: list[Examination]) -> Exit:
    """Choose the exit code: unreachable, then the token, then anything else."""
    codes = {
        finding.code
        for examination in examinations
        for finding in examination.findings
        if finding.standing == "problem"
    }
    return next((code for code in (Exit.UNAVAILABLE, Exit.DENIED, Exit.INVALID) if code in codes), Exit.OK)


class Doctor:
    """Examines endpoints.

    Args:
        transport: What carries the requests.
        token: The bearer token, if there is one.
        headers: Sent with every request.
        environment: Which one is asked for.
        timeout: Seconds for each request.
    """

    def __init__(
        self,
        transport: Transport,
        *,
        token: str | None,
        headers: Mapping[str, str],
        environment: str,
        timeout: float,
    ) -> None:
        self._transport = transport
        self._token = token
        self._headers = {"Accept": "application/json", **headers}
        self._environment = environment
        self._timeout = timeout
        self._key = f"absent-{secrets.token_hex(8)}"

    def examine(self, endpoint: Endpoint, role: Literal["primary", "backup"]) -> Examination:
        """Ask an endpoint, and judge its answers."""
        found = Examination(endpoint.url, role)
        try:
            for finding in self._findings(endpoint, found):
                found.findings.append(finding)
        except LLMConfigError as error:
            # A question after the first: it was there, and is not any more.
            found.findings.append(_failed("reachable", error, Exit.UNAVAILABLE))
        return found

    def _findings(self, endpoint: Endpoint, found: Examination) -> Iterator[Finding]:
        began, asked_at = time.perf_counter(), time.time()
        try:
            health = self._ask(endpoint, "/health", {})
        except ConnectFailedError as error:
            yield from _unconnected(error)
            return
        elapsed = time.perf_counter() - began
        yield from _reached(health, elapsed)
        yield self._judge_tls(endpoint)
        yield _judge_clock(health, asked_at + elapsed / 2)

        bearer = {"Authorization": f"Bearer {self._token}"} if self._token is not None else {}
        reply = self._ask(endpoint, self._path(NAMESPACE), bearer)
        forwarded: Mapping[str, str] = {}
        if reply.status == HTTPStatus.UPGRADE_REQUIRED:
            yield Finding(
                "forwarded",
                "problem",
                "The server answers only requests that carry X-Forwarded-Proto: https (HTTP 426).",
                "Reach it through its TLS proxy, or pass --header X-Forwarded-Proto:https "
                "(in a program, headers={...}).",
            )
            forwarded = FORWARDED
            reply = self._ask(endpoint, self._path(NAMESPACE), {**bearer, **forwarded})
        else:
            yield Finding("forwarded", "ok", "Requests are answered as they are sent (no HTTP 426).")

        found.profile, profile = _judge_profile(reply)
        yield profile
        yield from self._judge_token(endpoint, reply, forwarded)
        yield from self._judge_encoding(endpoint, reply, {**bearer, **forwarded})
        yield _judge_rate(reply)

    def _path(self, namespace: str) -> str:
        where = f"{encode_segment(namespace)}/{encode_segment(self._key)}"
        return f"/api/v1/configs/{where}?env={self._environment}"

    def _ask(self, endpoint: Endpoint, target: str, headers: Mapping[str, str]) -> Reply:
        request = WireRequest("GET", endpoint, target, {**self._headers, **headers})
        return self._transport.send(request, self._timeout)

    def _judge_tls(self, endpoint: Endpoint) -> Finding:
        if endpoint.scheme == "https":
            return Finding("tls", "ok", "The certificate is accepted.")
        if _is_loopback(endpoint.host):
            return Finding("tls", "ok", "None, and none is needed: the server is on this machine.")
        told = "the token and secrets" if self._token is not None else "secrets"
        return Finding(
            "tls",
            "note",
            f"None: whoever is on the way can read {told}.",
            "Use https in the base URL, unless the network itself is trusted.",
        )

    def _judge_token(
        self, endpoint: Endpoint, reply: Reply, forwarded: Mapping[str, str]
    ) -> Iterator[Finding]:
        if reply.status == HTTPStatus.UNAUTHORIZED:
            error = decode_error(reply)
            fix = (
                "Pass another token, with --token or LLM_CONFIG_TOKEN."
                if self._token is not None
                else "Pass a token, with --token or LLM_CONFIG_TOKEN."
            )
            yield Finding("token", "problem", _sentence(error), fix, Exit.DENIED)
            return
        if reply.status == HTTPStatus.FORBIDDEN:
            # The server's words name the roles, where it says them at all.
            error = decode_error(reply)
            yield Finding("token", "problem", _sentence(error), error.hint, Exit.DENIED)
            return
        if _is_failure(reply) or (not reply.is_success and decode_error(reply).is_route_problem):
            return
        if self._token is None:
            yield Finding("token", "ok", "None is passed, and the server asks for none.")
            return
        without = self._ask(endpoint, self._path(NAMESPACE), forwarded)
        if without.status == HTTPStatus.UNAUTHORIZED:
            yield Finding("token", "ok", "It is accepted; the server does not say which role it has.")
        else:
            yield Finding("token", "note", "The server answers without one just the same: it checks none.")

    def _judge_encoding(
        self, endpoint: Endpoint, reply: Reply, headers: Mapping[str, str]
    ) -> Iterator[Finding]:
        """Judge what became of a namespace with a slash, by the answer to what is not there."""
        if reply.status in {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN}:
            yield Finding("encoding", "note", "Not judged: the server refuses the token first.")
            return
        if reply.is_success:
            yield self._judge_hit(reply)
            return
        error = decode_error(reply)
        if reply.status == HTTPStatus.TOO_MANY_REQUESTS:
            yield Finding("encoding", "note", "Not judged: the server limits the rate.", error.hint)
        elif reply.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            yield _failed("reachable", error, Exit.UNAVAILABLE)
        elif error.is_not_found and f"{NAMESPACE}:{self._key}" in error.message:
            yield Finding("encoding", "ok", "A namespace with a slash arrives as it is sent.")
        elif error.is_not_found and not error.is_route_problem:
            yield Finding(
                "encoding", "note", "Something absent is reported as such, but not by the name that was sent."
            )
        elif error.is_route_problem:
            plain = decode_error(self._ask(endpoint, self._path(_PLAIN_NAMESPACE), headers))
            if plain.is_not_found and not plain.is_route_problem:
                yield Finding(
                    "encoding",
                    "problem",
                    "A namespace with a slash does not survive the path: a proxy decodes %2F.",
                    "Have the proxy pass the path on unchanged (nginx: proxy_pass without a path; "
                    "Apache: AllowEncodedSlashes NoDecode).",
                )
            else:
                yield Finding("encoding", "problem", "The path of configs is unknown there.", error.hint)
        else:
            yield _failed("encoding", error, Exit.INVALID)

    def _judge_hit(self, reply: Reply) -> Finding:
        try:
            entry = read_entry(reply)
        except ResponseDecodeError as error:
            return _failed("encoding", error, Exit.INVALID)
        return Finding(
            "encoding",
            "problem",
            f"Something absent was answered with {entry.namespace}:{entry.key}: the path is rewritten.",
            "Have the proxy pass the path on unchanged, and look for a cache that ignores it.",
        )


def _unconnected(error: ConnectFailedError) -> Iterator[Finding]:
    if "tls" in error.details:  # somebody is there, and the two do not agree
        yield Finding("reachable", "ok", "Something listens there.")
        yield _failed("tls", error, Exit.INVALID)
    else:
        yield _failed("reachable", error, Exit.UNAVAILABLE)


def _reached(reply: Reply, elapsed: float) -> Iterator[Finding]:
    took = f"{elapsed * _MILLISECONDS:.0f} ms"
    if not reply.is_success:
        error = decode_error(reply)
        code = Exit.UNAVAILABLE if error.is_transient or error.is_rate_limited else Exit.INVALID
        yield Finding("reachable", "problem", f"It answers, but: {_sentence(error)}", error.hint, code)
        return
    try:
        health = read_health(reply)
    except ResponseDecodeError as error:
        yield _failed("reachable", error, Exit.INVALID)
        return
    name = one_line(" ".join(part for part in (health.service, health.version) if part))
    says = f"{name or 'It'} answers in {took} and calls itself {one_line(health.status)}."
    if health.is_healthy:
        yield Finding("reachable", "ok", says)
    else:
        yield Finding("reachable", "problem", says, "Ask the operators what it is missing.", Exit.UNAVAILABLE)


def _judge_clock(reply: Reply, asked_at: float) -> Finding:
    try:
        told = parsedate_to_datetime(reply.headers.get("date", ""))
    except ValueError:
        return Finding("clock", "note", "Not judged: the server sends no Date.")
    # The header is cut to the second, so that on average half of one is missing.
    skew = (told if told.tzinfo else told.replace(tzinfo=UTC)).timestamp() + 0.5 - asked_at
    if abs(skew) <= SKEW_ALLOWED:
        return Finding("clock", "ok", "This machine's clock and the server's agree.")
    way = "ahead of" if skew > 0 else "behind"
    now = datetime.fromtimestamp(asked_at, UTC)
    return Finding(
        "clock",
        "problem",
        f"The server's clock is {abs(skew):.0f} s {way} this machine's ({now:%Y-%m-%d %H:%M:%S} UTC).",
        "Set the one that is wrong with NTP: waits that are given as a date depend on both.",
    )


def _judge_profile(reply: Reply) -> tuple[Profile | None, Finding]:
    """Tell the profile by the shape of an error: the guide's envelope, or the flat one of 0.5."""
    error = _document(reply).get("error")
    if isinstance(error, dict):
        return "guide", Finding(
            "profile", "ok", "guide: errors come in the envelope, with a code and a request id."
        )
    if isinstance(error, str):
        return "upstream-0.5", Finding(
            "profile", "ok", "upstream-0.5: errors are flat (a phrase and a message), with no code."
        )
    return None, Finding(
        "profile",
        "note",
        f"Unknown: HTTP {reply.status} came without an error of the platform's.",
        "Check that the base URL names the platform, not something in front of it.",
    )


def _judge_rate(reply: Reply) -> Finding:
    limit, remaining, reset = (reply.headers.get(name) for name in _RATE_HEADERS)
    if reply.status == HTTPStatus.TOO_MANY_REQUESTS:
        error = decode_error(reply)
        return Finding("rate limit", "problem", _sentence(error), error.hint, Exit.UNAVAILABLE)
    if limit is None and remaining is None:
        return Finding(
            "rate limit",
            "note",
            "The server does not say whether it has one.",
            "Cache reads: the 0.5 server allows 10 requests a second, and bans who insists.",
        )
    until = f", until {one_line(reset)}" if reset is not None else ""
    return Finding(
        "rate limit", "ok", f"{one_line(remaining or '?')} of {one_line(limit or '?')} requests left{until}."
    )


def _failed(check: Check, error: LLMConfigError, code: Exit) -> Finding:
    return Finding(check, "problem", _sentence(error), one_line(shell_hint(error)), code)


def _sentence(error: LLMConfigError) -> str:
    status = f" (HTTP {error.status})" if error.status is not None else ""
    message = one_line(error.message).rstrip(".")
    return f"{message[:1].upper()}{message[1:]}{status}."


def _is_failure(reply: Reply) -> bool:
    return reply.status == HTTPStatus.TOO_MANY_REQUESTS or reply.status >= HTTPStatus.INTERNAL_SERVER_ERROR


def _document(reply: Reply) -> dict[str, Any]:
    try:
        document: Any = json.loads(reply.body)
    except (ValueError, RecursionError):
        return {}
    return cast("dict[str, Any]", document) if isinstance(document, dict) else {}


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")
