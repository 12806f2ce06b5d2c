"""Entries as JSON that may leave the process: secrets sealed with a key, or left out."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Final

import pydantic
from pydantic import SecretStr

from llm_config_sdk.entries import ConfigEntry, is_redacted
from llm_config_sdk.errors import InvalidRequestError

if TYPE_CHECKING:
    from cryptography.fernet import Fernet

log: Final = logging.getLogger("llm_config_sdk.sealing")

EncryptionKey = SecretStr | str | bytes


class EntrySeal:
    """Writes and reads entries for a disk or a shared cache.

    Args:
        key: A Fernet key (`cryptography.fernet.Fernet.generate_key()`), to seal secrets with; without
            one they are left out.

    Raises:
        InvalidRequestError: The key is none, or the extra that it needs is not installed.
    """

    def __init__(self, key: EncryptionKey | None = None) -> None:
        self._fernet = _fernet(key)

    def accepts(self, entry: ConfigEntry) -> bool:
        """Whether an entry may leave the process: no placeholder, and no secret unless it is sealed."""
        return not is_redacted(entry.stored_value) and (not entry.secret or self._fernet is not None)

    def dump(self, entry: ConfigEntry) -> dict[str, Any]:
        """Write an entry that is accepted."""
        body: dict[str, Any] = entry.model_dump(mode="json", by_alias=True)
        value = entry.value
        if entry.secret and self._fernet is not None and isinstance(value, SecretStr):
            body["value"] = None
            body["sealed"] = self._fernet.encrypt(value.get_secret_value().encode()).decode()
        return body

    def load(self, body: dict[str, Any]) -> ConfigEntry | None:
        """Read an entry; `None` for one that cannot be read, or opened with this key."""
        if "sealed" in body:
            opened = self._open(body["sealed"])
            if opened is None:
                return None
            body = {**body, "value": opened, "secret": True}
        try:
            return ConfigEntry.model_validate(body)
        except pydantic.ValidationError:
            return None

    def _open(self, sealed: object) -> str | None:
        if self._fernet is None or not isinstance(sealed, str):
            return None
        from cryptography.fernet import InvalidToken  # noqa: PLC0415  # an extra, there if a key was given

        try:
            return self._fernet.decrypt(sealed.encode()).decode()
        except (InvalidToken, UnicodeError):
            log.warning("a secret that was kept does not open with this key, and is ignored")
            return None


def _fernet(key: EncryptionKey | None) -> Fernet | None:
    if key is None:
        return None
    try:
        from cryptography.fernet import Fernet  # noqa: PLC0415  # an extra
    except ModuleNotFoundError as error:
        raise InvalidRequestError("encryption_key needs the extra: install llm-config-sdk[crypto]") from error
    try:
        return Fernet(key.get_secret_value() if isinstance(key, SecretStr) else key)
    except ValueError:
        raise InvalidRequestError(
            "encryption_key must be 32 bytes in URL-safe base64, as Fernet.generate_key() makes it"
        ) from None
