"""Steps that change what is said: errors, replies of another's, and real replies spoilt."""

from __future__ import annotations

import json
from dataclasses import replace
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, Final

from llm_config_mock_server.messages import Header, Reply
from llm_config_sdk.contract import CODES, VARIANTS, Module, VariantFacts

from .step import ErrorSpec, Step

if TYPE_CHECKING:
    from collections.abc import Mapping

_FACTS_BY_NAME: Final = {str(code): facts for code, facts in CODES.items()}
_OVERSIZED: Final = 8 * 1024 * 1024  # bytes: more than a client should take for a config


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
        code: One of the guide's seventeen codes, or any other word; what looks like a misspelt code has to be
            given with a `status`.
        module: The module of a variant; `variant="crypto.InvalidKey"` says both.
        variant: A variant of a module's error enum; the code follows from it.
        status: The HTTP status, where it is not the code's own.
        message: The message.
        details: Details beside the ones that module, variant and kind make.
        kind: The kind of an I/O error (`StorageFull`).
        retriable: What the envelope says, where it is not the table's word.
        retry_after: The header `Retry-After`: seconds, or an HTTP date.

    Raises:
        ValueError: Neither a code nor a variant is given, there is no such variant, or the code looks
            misspelt.
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
    if (
        known is None
        and status is None
        and (near := get_close_matches(str(code), _FACTS_BY_NAME, n=1, cutoff=0.85))
    ):
        raise ValueError(f"unknown code {code!r}: did you mean {near[0]}? With status=… it is taken as it is")
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
