"""What a request carried in confidence is taken out of what comes back: servers and proxies echo requests.

A gateway's debugging page lists the headers it was sent, a validation message quotes the value. Whatever an
error would keep of such a reply is read from a copy without them.
"""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from llm_config_sdk.decoding import Reply

REDACTED: Final = "[redacted]"
_SHORTEST: Final = 6  # characters: what is shorter is in too many words that mean something else
_CONFIDENTIAL: Final = re.compile(r"auth|cookie|key|password|secret|token", re.IGNORECASE)


def secrets_in(headers: Mapping[str, str], body: bytes | None) -> set[str]:
    """Collect what a request carries in confidence.

    Args:
        headers: Its headers: those whose names say that they are credentials or keys.
        body: Its JSON body: the value of a secret that is written.

    Returns:
        Each of them, with and without the name of its scheme.
    """
    found: set[str] = set()
    for name, value in headers.items():
        if _CONFIDENTIAL.search(name):
            found |= {value, value.rpartition(" ")[2]}
    if body is not None and b'"secret":true' in body:
        value = json.loads(body).get("value")
        found |= {value} if isinstance(value, str) else set()
    return {secret for secret in found if len(secret) >= _SHORTEST}


def without_secrets(reply: Reply, secrets: Iterable[str]) -> Reply:
    """Copy a reply with secrets put out of sight, plain or as JSON writes them; itself if it has none."""
    body, headers = reply.body, dict(reply.headers)
    for secret in sorted(secrets, key=len, reverse=True):
        for form in {secret, json.dumps(secret)[1:-1], json.dumps(secret, ensure_ascii=False)[1:-1]}:
            body = body.replace(form.encode(), REDACTED.encode())
        headers = {name: value.replace(secret, REDACTED) for name, value in headers.items()}
    unchanged = body == reply.body and headers == reply.headers
    return reply if unchanged else replace(reply, body=body, headers=headers)
