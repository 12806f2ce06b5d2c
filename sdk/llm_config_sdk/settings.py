"""What a client is told: by arguments, else by `LLM_CONFIG_*` environment variables."""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Final, Literal

import pydantic
from pydantic import Field, SecretStr, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from llm_config_sdk.contract import USER_ID_HEADER, Environment
from llm_config_sdk.credentials import bearer
from llm_config_sdk.errors import InvalidRequestError, one_line
from llm_config_sdk.operations import check_header
from llm_config_sdk.transport import Endpoint

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

log: Final = logging.getLogger("llm_config_sdk")

ENV_PREFIX: Final = "LLM_CONFIG_"
SETTINGS_ARE_WRONG: Final = "the client's settings are wrong:"
DEFAULT_TIMEOUT: Final = 10.0  # seconds, for a whole call


class ClientSettings(BaseSettings):
    """A client's settings that the environment may give.

    Attributes:
        base_url: `LLM_CONFIG_BASE_URL`: the primary server.
        token: `LLM_CONFIG_TOKEN`: the bearer token.
        environment: `LLM_CONFIG_ENVIRONMENT`: the environment of calls that name none.
        user: `LLM_CONFIG_USER`: sent as `X-User-ID`, and as the author of changes.
        backups: `LLM_CONFIG_BACKUPS`: base URLs that reads fail over to, separated by commas.
        timeout: `LLM_CONFIG_TIMEOUT`: seconds for a whole call, retries and all.
        strict: `LLM_CONFIG_STRICT`: whether an outage raises, rather than be bridged by older values.
        ca_bundle: `LLM_CONFIG_CA_BUNDLE`: a file or folder of CA certificates to check servers by.
        client_cert: `LLM_CONFIG_CLIENT_CERT`: the client's own certificate, with its key or without.
        client_key: `LLM_CONFIG_CLIENT_KEY`: the key of that certificate.
        client_key_password: `LLM_CONFIG_CLIENT_KEY_PASSWORD`: what the key is encrypted with.
        minimum_tls: `LLM_CONFIG_MINIMUM_TLS`: the lowest version of TLS that is spoken, 1.2 or 1.3.
    """

    model_config: ClassVar[SettingsConfigDict] = SettingsConfigDict(
        env_prefix=ENV_PREFIX, extra="ignore", hide_input_in_errors=True, env_ignore_empty=True
    )

    base_url: str | None = None
    token: SecretStr | None = None
    environment: Environment = Environment.DEVELOPMENT
    user: str | None = None
    backups: Annotated[tuple[str, ...], NoDecode] = ()
    timeout: float = Field(default=DEFAULT_TIMEOUT, gt=0)
    strict: bool = False
    ca_bundle: str | None = None
    client_cert: str | None = None
    client_key: str | None = None
    client_key_password: SecretStr | None = None
    minimum_tls: Literal["1.2", "1.3"] | None = None

    @property
    def certificate(self) -> tuple[str, str] | tuple[str, str, str] | None:
        """The client's own certificate, its key, and the key's password."""
        if self.client_cert is None:
            return None
        files = self.client_cert, self.client_key or self.client_cert
        password = self.client_key_password
        return files if password is None else (*files, password.get_secret_value())

    # What cannot be sent is refused here, where it is known whether an argument or a variable is to blame.

    @field_validator("base_url")
    @classmethod
    def _check_url(cls, value: str | None) -> str | None:
        if value is not None:
            _check(Endpoint.parse, value)
        return value

    @field_validator("token")
    @classmethod
    def _check_token(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and not value.get_secret_value().strip():
            raise ValueError("a token must not be empty; leave it out to send none")
        if value is not None:
            _check(bearer, value)
        return value

    @field_validator("user")
    @classmethod
    def _check_user(cls, value: str | None) -> str | None:
        if value is not None:
            _check(check_header, USER_ID_HEADER, value)
        return value

    @field_validator("environment", mode="before")
    @classmethod
    def _parse_environment(cls, value: object) -> Environment:
        return Environment.parse(str(value))

    @field_validator("backups", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        return [url.strip() for url in value.split(",") if url.strip()] if isinstance(value, str) else value

    @field_validator("backups")
    @classmethod
    def _check_backups(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for url in value:
            _check(Endpoint.parse, url)
        return value


def read_settings(given: Mapping[str, Any]) -> ClientSettings:
    """Join arguments with the environment; arguments win. A variable that looks misspelt is logged.

    Args:
        given: The arguments; those that are `None` count as not given.

    Raises:
        InvalidRequestError: A setting has a wrong value. The message names it and where it came from.
    """
    for name, meant in misspelt_variables(os.environ):
        log.warning("%s is not read; did you mean %s?", one_line(name), meant)
    arguments = {name: value for name, value in given.items() if value is not None}
    try:
        return ClientSettings(**arguments)
    except pydantic.ValidationError as error:
        faults = "; ".join(
            f"{_origin(str(fault['loc'][0]), arguments)}: {fault['msg'].removeprefix('Value error, ')}"
            for fault in error.errors(include_url=False, include_input=False, include_context=False)
        )
        raise InvalidRequestError(
            f"{SETTINGS_ARE_WRONG} {faults}", hint="Correct the settings that the message names."
        ) from None


def misspelt_variables(environment: Mapping[str, str]) -> list[tuple[str, str]]:
    """Find variables that look meant for a setting which has none of its own, and the one that is read.

    Args:
        environment: The environment's variables.
    """
    known = {name.upper() for name in ClientSettings.model_fields}
    names = {
        name.upper().removeprefix(ENV_PREFIX): name
        for name in environment
        if name.upper().startswith(ENV_PREFIX)
    }
    missing = sorted(known - names.keys())
    pairs = ((names[found], _likeliest(found, missing)) for found in sorted(names.keys() - known))
    return [(name, ENV_PREFIX + meant) for name, meant in pairs if meant is not None]


def _likeliest(found: str, missing: list[str]) -> str | None:
    """Choose the setting that a name was meant for: one that begins or ends alike, or is nearly the same."""
    from difflib import get_close_matches  # noqa: PLC0415  # few ask

    if close := get_close_matches(found, missing, n=1, cutoff=0.75):
        return close[0]
    return next(
        (
            name
            for name in missing
            if found and (name.startswith(found) or name.endswith(f"_{found}") or found.startswith(name))
        ),
        None,
    )


def _check(rule: Callable[..., object], *values: object) -> None:
    try:
        rule(*values)
    except InvalidRequestError as error:
        raise ValueError(error.message) from None


def _origin(name: str, arguments: Mapping[str, Any]) -> str:
    return f"{name}=…" if name in arguments else f"{ENV_PREFIX}{name.upper()}"
