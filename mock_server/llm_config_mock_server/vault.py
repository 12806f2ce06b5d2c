"""The vault: AES-256-GCM keys by version, and the sealing of secrets with them."""

from __future__ import annotations

import base64
import binascii
import hashlib
import secrets
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final, TypedDict

from .conditions import ComponentFailureError, Conditions
from .tables import Table

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    from .storage import Storage

ALGORITHM: Final = "aes-256-gcm"
KEY_BYTES: Final = 32  # AES-256
NONCE_BYTES: Final = 12  # what GCM is defined for (NIST SP 800-38D, section 5.2.1.1)
_RING: Final = "ring"  # the name of the one document that holds all keys
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


@dataclass(frozen=True, slots=True)
class _KeyRing:
    keys: Mapping[int, bytes]
    active: int | None
    made: int


class Vault:
    """Keys by version, one of them active, subject to the conditions `vault` and `entropy`.

    Keys that are added are kept sealed under a wrapping key; key 1 is kept nowhere, since whoever
    starts the server brings it. `cryptography` (the extra `crypto`) is imported at the first secret.

    Args:
        conditions: Where the conditions are looked up.
        storage: Where the keys are kept.
        key: Material of key 1: 32 bytes; `None` begins without a key.
        origin: What the wrapping key follows from where there is no key 1.
    """

    def __init__(
        self, conditions: Conditions, storage: Storage, key: bytes | None, *, origin: bytes = b""
    ) -> None:
        """Begin with one key, or none, or go on where the storage ends."""
        if key is not None and len(key) != KEY_BYTES:
            raise ValueError(f"an encryption key has {KEY_BYTES} bytes, not {len(key)}")
        self._conditions = conditions
        self._first = key
        self._wrapping_key = hashlib.sha256(b"vault wrapping key\0" + (key or origin)).digest()
        self._kept = Table(storage, "vault", self._as_json, self._from_json)

    @property
    def _ring(self) -> _KeyRing:
        kept = self._kept.get(_RING)
        if kept is not None:
            return kept
        return _KeyRing({}, None, 0) if self._first is None else _KeyRing({1: self._first}, 1, 1)

    @property
    def keys(self) -> list[VaultKey]:
        """The keys there are, oldest first.

        Raises:
            CryptoError: `InvalidKey`: they were kept under another wrapping key.
        """
        ring = self._ring
        return [VaultKey(version, ALGORITHM, version == ring.active) for version in sorted(ring.keys)]

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
        ring = self._ring
        version = ring.made + 1
        self._kept[_RING] = _KeyRing({**ring.keys, version: key}, version, version)
        return VaultKey(version, ALGORITHM, active=True)

    def remove_key(self, version: int | None) -> bool:
        """Destroy a key, the active one for `None`, and say whether there was one."""
        self._check()
        ring = self._ring
        wanted = ring.active if version is None else version
        if wanted not in ring.keys:
            return False
        left = {number: key for number, key in ring.keys.items() if number != wanted}
        self._kept[_RING] = replace(ring, keys=left, active=None if wanted == ring.active else ring.active)
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
        ring = self._ring
        if ring.active is None:
            raise CryptoError("EncryptionFailed", "Encryption failed: no active key")
        nonce = self._draw(NONCE_BYTES)
        sealed = _aes_gcm(ring.keys[ring.active]).encrypt(nonce, data, None)
        return {
            "algorithm": ALGORITHM,
            "nonce": nonce.hex(),
            "ciphertext": sealed.hex(),
            "key_version": ring.active,
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
        key = self._ring.keys.get(version) if isinstance(version, int) else None
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

    # --- At rest ----------------------------------------------------------------------------------

    def _as_json(self, ring: _KeyRing) -> dict[str, Any]:
        keys = {str(version): self._wrapped(version, key) for version, key in ring.keys.items()}
        return {"keys": keys, "active": ring.active, "made": ring.made}

    def _from_json(self, told: Any) -> _KeyRing:
        found = {int(version): self._unwrapped(int(version), kept) for version, kept in told["keys"].items()}
        keys = {version: key for version, key in found.items() if key is not None}
        active: int | None = told["active"]
        return _KeyRing(keys, active if active in keys else None, told["made"])

    def _wrapped(self, version: int, key: bytes) -> str | None:
        if key == self._first:
            return None
        nonce = secrets.token_bytes(NONCE_BYTES)  # no entropy source of the platform's: this one never fails
        return (nonce + _aes_gcm(self._wrapping_key).encrypt(nonce, key, _bound_to(version))).hex()

    def _unwrapped(self, version: int, kept: str | None) -> bytes | None:
        if kept is None:
            return self._first
        cipher = _aes_gcm(self._wrapping_key)
        from cryptography.exceptions import InvalidTag  # noqa: PLC0415 - an extra: only where keys were added

        sealed = bytes.fromhex(kept)
        try:
            return cipher.decrypt(sealed[:NONCE_BYTES], sealed[NONCE_BYTES:], _bound_to(version))
        except InvalidTag as error:
            raise CryptoError(
                "InvalidKey", "the vault's keys were kept under another encryption key"
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


def _bound_to(version: int) -> bytes:
    """Return what a wrapped key is authentic together with: it cannot pass for another version."""
    return b"%d" % version


def _aes_gcm(key: bytes) -> AESGCM:
    try:
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM  # noqa: PLC0415 - an extra, imported at the first secret
    except ImportError as error:
        raise CryptoError(
            "EncryptionFailed",
            "Encryption failed: secrets need the extra `server` (pip install llm-config-sdk[server])",
        ) from error
    return AESGCM(key)
