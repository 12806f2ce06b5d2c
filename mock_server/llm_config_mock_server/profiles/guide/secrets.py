"""Secrets of configs: sealed before they are stored, opened when they are read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from llm_config_mock_server.vault import CryptoError

from .refusals import config_error

if TYPE_CHECKING:
    from collections.abc import Mapping

    from llm_config_mock_server.core import Platform
    from llm_config_mock_server.storage import Address
    from llm_config_mock_server.store import Record

    from .visit import Visit


def plain_value(platform: Platform, address: Address, record: Record) -> Any:
    """Return a record's value, opened where it is a secret.

    Raises:
        RefusedError: It cannot be opened (`config.DecryptionError`).
    """
    if not record.secret:
        return record.value
    try:
        return platform.vault.open(record.value)
    except CryptoError as error:
        raise config_error(
            "DecryptionError",
            f"Failed to decrypt {address}: {error.message}",
            namespace=address.namespace,
            key=address.key,
            cause=error.variant,
        ) from error


def sealed_value(visit: Visit, address: Address, value: str) -> Mapping[str, Any]:
    """Seal a value of a config.

    Raises:
        RefusedError: It cannot be sealed (`config.EncryptionError`).
    """
    try:
        return visit.platform.vault.seal(value)
    except CryptoError as error:
        raise config_error(
            "EncryptionError",
            f"Failed to encrypt {address}: {error.message}",
            namespace=address.namespace,
            key=address.key,
            cause=error.variant,
        ) from error
