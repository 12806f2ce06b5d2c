"""Throw-away certificate authorities: what a server or a proxy that speaks TLS in a test is signed by."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import trustme


def make_authority() -> trustme.CA:
    """Make an authority that nobody trusts yet.

    Raises:
        ModuleNotFoundError: The extra `server` is not installed.
    """
    try:
        import trustme  # noqa: PLC0415 - an extra: only where TLS is asked for
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("TLS needs the extra: pip install 'llm-config-sdk[server]'") from error
    return trustme.CA()
