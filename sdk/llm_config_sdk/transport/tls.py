"""What a connection by TLS asks of a server and shows of itself: one SSL context, of a caller's options."""

from __future__ import annotations

import os
import ssl
from pathlib import Path
from typing import Final, Literal

import httpx

from llm_config_sdk.errors import InvalidRequestError

FilePath = str | os.PathLike[str]
Verification = bool | FilePath | ssl.SSLContext
"""Whether certificates are checked, a file or folder of authorities to check them by, or a context."""
ClientCertificate = FilePath | tuple[FilePath, FilePath] | tuple[FilePath, FilePath, str]
"""A file with certificate and key, or a file each, or these and the key's password."""
TlsVersion = Literal["1.2", "1.3"]

_VERSIONS: Final = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}


def ssl_context(
    verify: Verification, cert: ClientCertificate | None = None, minimum: TlsVersion | None = None
) -> bool | ssl.SSLContext:
    """Make the SSL context that options ask for, at once, so that what is wrong with them is known at once.

    Args:
        verify: Whether the server's certificate is checked, a path to CA certificates, or a whole context.
        cert: The client's own certificate.
        minimum: The lowest version of TLS that is spoken.

    Returns:
        The context, or `verify` itself where nothing is asked for: making one takes 30 ms, and may not be
        needed.

    Raises:
        InvalidRequestError: A file cannot be read, or the options contradict each other.
    """
    if minimum is not None and minimum not in _VERSIONS:
        raise InvalidRequestError(f"minimum_tls must be '1.2' or '1.3', not {minimum!r}")
    is_asked = cert is not None or minimum is not None
    if isinstance(verify, ssl.SSLContext):
        if is_asked:
            raise InvalidRequestError(
                "verify= is an SSL context, which has a certificate and a version of its own: set them there"
            )
        return verify
    if isinstance(verify, bool):
        if not is_asked:
            return verify
        context = httpx.create_ssl_context(verify=verify)
    else:
        context = _trusting(verify)
    if minimum is not None:
        context.minimum_version = _VERSIONS[minimum]
    if cert is not None:
        _show(context, cert)
    return context


def holds_back(tls: ssl.SSLObject) -> bool:
    """Whether there is more to read, or an end, in what TLS has taken from below already. It spoils that."""
    try:
        tls.read(1)
    except ssl.SSLWantReadError:
        return False
    except ssl.SSLError:
        return True
    return True


def _trusting(authorities: FilePath) -> ssl.SSLContext:
    try:
        if Path(authorities).is_dir():
            return ssl.create_default_context(capath=authorities)
        return ssl.create_default_context(cafile=authorities)
    except (OSError, TypeError) as error:  # ssl.SSLError is an OSError
        raise InvalidRequestError(
            f"verify={authorities!r} cannot be read as CA certificates: {error}"
        ) from error


def _show(context: ssl.SSLContext, cert: ClientCertificate) -> None:
    files = cert if isinstance(cert, tuple) else (cert,)
    key = files[1] if len(files) > 1 else None
    password = files[2] if len(files) > 2 else ""  # noqa: PLR2004  # certificate, key, password
    try:
        # Without a password OpenSSL would ask for one on the terminal.
        context.load_cert_chain(files[0], key, lambda: str(password))
    except (OSError, TypeError, ValueError) as error:
        shown = " and ".join(repr(os.fspath(name)) for name in files[:2])
        raise InvalidRequestError(
            f"cert={shown} cannot be read as a client's certificate and its key: {_reason(error)}"
        ) from error


def _reason(error: Exception) -> str:
    """Say what OpenSSL means; of a wrong password, and of none, it says only that nothing could be read."""
    if isinstance(error, ssl.SSLError) and not getattr(error, "reason", ""):
        return "no certificate or key in PEM format, or another password"
    return str(error)
