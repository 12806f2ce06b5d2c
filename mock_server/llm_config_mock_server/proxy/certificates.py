"""What the proxy shows in a handshake, where it speaks TLS itself: good certificates and bad ones."""

from __future__ import annotations

import ssl
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from llm_config_mock_server.authority import make_authority

if TYPE_CHECKING:
    import trustme

    from .trouble import Certificate


class Certificates:
    """What the proxy can show in a handshake, made when it is first asked for."""

    def __init__(self, host: str) -> None:
        self._host = host
        self._contexts: dict[str, ssl.SSLContext] = {}
        self.authority: trustme.CA = make_authority()

    def context(self, kind: Certificate) -> ssl.SSLContext:
        """Return what to shake hands with, to show a certificate of a kind.

        Raises:
            ValueError: There is no such kind.
        """
        if kind not in self._contexts:
            now = datetime.now(UTC)
            match kind:
                case "valid":
                    leaf = self.authority.issue_cert(self._host, "localhost")
                case "expired":
                    leaf = self.authority.issue_cert(
                        self._host,
                        "localhost",
                        not_before=now - timedelta(days=2),
                        not_after=now - timedelta(days=1),
                    )
                case "wrong-host":
                    leaf = self.authority.issue_cert("somebody-else.invalid")
                case "untrusted":
                    leaf = make_authority().issue_cert(self._host, "localhost")
                case _:
                    raise ValueError(f"a certificate can be expired, wrong-host or untrusted, not {kind!r}")
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            leaf.configure_cert(context)
            self._contexts[kind] = context
        return self._contexts[kind]
