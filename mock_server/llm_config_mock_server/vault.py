"""The vault: AES-256-GCM keys by version, and the sealing of secrets with them."""

from __future__ import annotations

import base64
import binascii
import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypedDict

from .conditions import ComponentFailureError, Conditions

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

ALGORITHM: Final = "aes-256-gcm"
KEY_BYTES: Final = 32  # AES-256
NONCE_BYTES: Final = 12  # what GCM is defined for (NIST SP 800-38D, section 5.2.1.1)
PLAINTEXT_MAX_BYTES: Final = 65_536  # our choice: the guide names no limit


class Ciphertext(TypedDict):
    """A sealed secret, in the platform's shape."""

    algorithm: str
    nonce: str
    ciphertext: str
    key_version: int


class CryptoError(Exception):
    """A variant of the guide's `CryptoError`, by name."""

    def __init__(self, variant: str, message: str) -> None:
        """Remember the variant."""
        super().__init__(message)
        self.variant = variant
        self.message = message


@dataclass(frozen=True, slots=True)
class VaultKey:
    """A key's facts; its material is shown to nobody."""

    version: int
    algorithm: str
    active: bool


class Vault:
    """Keys by version, one of them active, subject to the conditions `vault` and `entropy`.

    `cryptography` (the extra `crypto`) is imported at the first secret.

    Args:
        conditions: Where the conditions are looked up.
        key: Material of key 1: 32 bytes; `None` begins without a key.
    """

    def __init__(self, conditions: Conditions, key: bytes | None) -> None:
        """Begin with one key, or none."""
        if key is not None and len(key) != KEY_BYTES:
            raise ValueError(f"an encryption key has {KEY_BYTES} bytes, not {len(key)}")
        self._conditions = conditions
        self._first = key
        self._keys: dict[int, bytes] = {}
        self._active: int | None = None
        self._made = 0
        self.reset()

    def reset(self) -> None:
        """Go back to the key that the vault began with."""
        self._keys = {} if self._first is None else {1: self._first}
        self._active = None if self._first is None else 1
        self._made = len(self._keys)

    @property
    def keys(self) -> list[VaultKey]:
        """The keys there are, oldest first."""
        return [VaultKey(version, ALGORITHM, version == self._active) for version in sorted(self._keys)]

    def add_key(self, *, material: str | None = None, algorithm: str = ALGORITHM) -> VaultKey:
        """Add a key and make it the active one.

        Args:
            material: Base64 of 32 bytes; `None` draws them.
            algorithm: The only one is `aes-256-gcm`.

        Raises:
            CryptoError: `InvalidAlgorithm`, `InvalidKey` (wrong length), `KeyGenerationFailed` (no
                base64, as the platform has it, or no entropy).
        """
        self._check()
        if algorithm != ALGORITHM:
            raise CryptoError("InvalidAlgorithm", f"Unsupported algorithm: {algorithm}")
        if material is None:
            key = self._draw(KEY_BYTES)
        else:
            try:
                key = base64.b64decode(material, validate=True)
            except (binascii.Error, ValueError) as error:
                raise CryptoError("KeyGenerationFailed", f"Key material is not base64: {error}") from error
            if len(key) != KEY_BYTES:
                raise CryptoError(
                    "InvalidKey", f"Invalid key length: expected {KEY_BYTES} bytes, got {len(key)}"
                )
        self._made += 1
        self._keys[self._made] = key
        self._active = self._made
        return VaultKey(self._made, ALGORITHM, active=True)

    def remove_key(self, version: int | None) -> bool:
        """Destroy a key, the active one for `None`, and say whether there was one."""
        self._check()
        wanted = self._active if version is None else version
        if wanted is None or self._keys.pop(wanted, None) is None:
            return False
        if wanted == self._active:
            self._active = None
        return True

    def seal(self, plaintext: str) -> Ciphertext:
        """Encrypt with the active key.

        Raises:
            CryptoError: `EncryptionFailed`: there is no active key, or the text is too long.
        """
        self._check()
        data = plaintext.encode()
        if len(data) > PLAINTEXT_MAX_BYTES:
            raise CryptoError("EncryptionFailed", f"Plaintext exceeds {PLAINTEXT_MAX_BYTES} bytes")
        if self._active is None:
            raise CryptoError("EncryptionFailed", "Encryption failed: no active key")
        nonce = self._draw(NONCE_BYTES)
        sealed = _aes_gcm(self._keys[self._active]).encrypt(nonce, data, None)
        return {
            "algorithm": ALGORITHM,
            "nonce": nonce.hex(),
            "ciphertext": sealed.hex(),
            "key_version": self._active,
        }

    def open(self, sealed: Mapping[str, Any]) -> str:
        """Decrypt with the key that the ciphertext names.

        Raises:
            CryptoError: `InvalidAlgorithm`, or `DecryptionFailed`: no such key, or not what it sealed.
        """
        self._check()
        algorithm = sealed.get("algorithm")
        if algorithm != ALGORITHM:
            raise CryptoError("InvalidAlgorithm", f"Unsupported algorithm: {algorithm}")
        version = sealed.get("key_version")
        key = self._keys.get(version) if isinstance(version, int) else None
        if key is None:
            raise CryptoError("DecryptionFailed", f"Decryption failed: no key of version {version}")
        cipher = _aes_gcm(key)
        from cryptography.exceptions import InvalidTag  # noqa: PLC0415 - an extra: only where a secret is opened

        try:
            nonce, ciphertext = bytes.fromhex(str(sealed["nonce"])), bytes.fromhex(str(sealed["ciphertext"]))
            return cipher.decrypt(nonce, ciphertext, None).decode()
        except (InvalidTag, KeyError, ValueError) as error:
            raise CryptoError(
                "DecryptionFailed", "Decryption failed: the ciphertext is not authentic"
            ) from error

    def _check(self) -> None:
        try:
            self._conditions.check("vault")
        except ComponentFailureError as error:
            raise CryptoError("InternalError", f"vault: {error.message}") from error

    def _draw(self, count: int) -> bytes:
        try:
            self._conditions.check("entropy")
        except ComponentFailureError as error:
            raise CryptoError("KeyGenerationFailed", f"entropy source: {error.message}") from error
        return secrets.token_bytes(count)


def _aes_gcm(key: bytes) -> AESGCM:
    try:
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM  # noqa: PLC0415 - an extra, imported at the first secret
    except ImportError as error:
        raise CryptoError(
            "EncryptionFailed",
            "Encryption failed: secrets need the extra `server` (pip install llm-config-sdk[server])",
        ) from error
    return AESGCM(key)
