"""A namespace as a model: entries become fields, dotted keys become nested ones.

`bind` of the clients uses this, and so does `LLMConfigSettingsSource`, which lets a `BaseSettings` class read
from the platform with environment variables still on top.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, TypeVar

import pydantic
from pydantic import BaseModel, SecretStr
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource

from llm_config_sdk.contract import Module
from llm_config_sdk.entries import is_redacted, json_object
from llm_config_sdk.errors import DecryptionError, InvalidValueError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pydantic.fields import FieldInfo

    from llm_config_sdk.client import ConfigClient
    from llm_config_sdk.contract import Environment
    from llm_config_sdk.entries import ConfigEntry

M = TypeVar("M", bound=BaseModel)

_FAULTS_SHOWN: Final = 5


def nest(entries: Iterable[ConfigEntry]) -> dict[str, Any]:
    """Arrange entries as fields: `llm.timeout` becomes `{"llm": {"timeout": …}}`, and `-` becomes `_`.

    Args:
        entries: Lowest precedence first: of two with the same key the later one wins.

    Raises:
        DecryptionError: A secret came as ciphertext or as a placeholder.
        InvalidValueError: A key is both a value and a group of values (`llm` beside `llm.timeout`).
    """
    latest = {entry.key: entry for entry in entries}
    fields: dict[str, Any] = {}
    for key, entry in sorted(latest.items()):
        if is_redacted(entry.stored_value):
            raise DecryptionError(
                "the server sent ciphertext or a placeholder in place of the secret",
                module=Module.CONFIG,
                operation="bind",
                namespace=entry.namespace,
                key=key,
                environment=entry.environment,
            )
        *groups, name = key.replace("-", "_").split(".")
        place = fields
        for group in groups:
            inner = json_object(place.setdefault(group, {}))
            if inner is None:
                raise _clash(entry)
            place = inner
        value = entry.value
        present = json_object(place.get(name))
        if present is not None and json_object(value) is None:
            raise _clash(entry)
        place[name] = {**(json_object(value) or {}), **present} if present is not None else value
    return fields


def validate(model: type[M], fields: dict[str, Any], namespace: str, environment: Environment) -> M:
    """Make a model of fields.

    Raises:
        InvalidValueError: A value is missing or has another type. The message names keys and what was
            expected, and never shows a value.
    """
    try:
        return model.model_validate(_opened(fields, model))
    except pydantic.ValidationError as error:
        faults = error.errors(include_url=False, include_input=False, include_context=False)
    # Raised out here, so that neither pydantic's error nor its frames, which hold the values, go along.
    told = "; ".join(
        f"{'.'.join(map(str, fault['loc'])) or model.__name__}: {fault['msg']}"
        for fault in faults[:_FAULTS_SHOWN]
    )
    more = f"; and {len(faults) - _FAULTS_SHOWN} more" if len(faults) > _FAULTS_SHOWN else ""
    raise InvalidValueError(
        f"the namespace does not make a {model.__name__}: {told}{more}",
        module=Module.CONFIG,
        details={"fields": [".".join(map(str, fault["loc"])) for fault in faults]},
        hint="Write the entries that are missing or wrong, or give the model's fields defaults.",
        operation="bind",
        namespace=namespace,
        environment=environment,
    )


def _opened(fields: dict[str, Any], model: type[BaseModel]) -> dict[str, Any]:
    """Hand secrets in plain text to fields that are no `SecretStr`: their type says that it is wanted so."""
    opened: dict[str, Any] = {}
    for name, value in fields.items():
        info = _field(model, name)
        wanted = None if info is None else info.annotation
        group = json_object(value)
        if isinstance(value, SecretStr) and wanted is not None and not _mentions_secret(wanted):
            opened[name] = value.get_secret_value()
        elif group is not None and isinstance(wanted, type) and issubclass(wanted, BaseModel):
            opened[name] = _opened(group, wanted)
        else:
            opened[name] = value
    return opened


def _field(model: type[BaseModel], name: str) -> FieldInfo | None:
    if name in model.model_fields:
        return model.model_fields[name]
    return next(
        (info for info in model.model_fields.values() if name in (info.alias, info.validation_alias)), None
    )


def _mentions_secret(wanted: Any) -> bool:
    return wanted is SecretStr or any(_mentions_secret(part) for part in getattr(wanted, "__args__", ()))


def _clash(entry: ConfigEntry) -> InvalidValueError:
    return InvalidValueError(
        f"the key {entry.key!r} is both a value and a group of values",
        module=Module.CONFIG,
        hint="Rename one of the keys: a.b makes a field b of a group a, so a cannot be a value.",
        operation="bind",
        namespace=entry.namespace,
        key=entry.key,
        environment=entry.environment,
    )


class LLMConfigSettingsSource(PydanticBaseSettingsSource):
    """Lets a `BaseSettings` class read a namespace.

        class Settings(BaseSettings):
            model: str
            timeout: float = 30.0

            @classmethod
            def settings_customise_sources(cls, settings_cls, init_settings, env_settings, **others):
                platform = LLMConfigSettingsSource(settings_cls, client, "app/llm", env="production")
                return init_settings, env_settings, platform

    What stands before it wins, so environment variables stay on top. It asks once, when settings are made.

    Args:
        settings_cls: The settings class, as pydantic-settings hands it over.
        client: The client to read with.
        namespace: The namespace that holds the fields.
        env: The environment; left out, the client's.
        resolve: Whether overrides of lower environments apply.
    """

    def __init__(
        self,
        settings_cls: type[BaseSettings],
        client: ConfigClient,
        namespace: str,
        *,
        env: Environment | str | None = None,
        resolve: bool = True,
    ) -> None:
        super().__init__(settings_cls)
        self._fields = _opened(client.get_fields(namespace, env=env, resolve=resolve), settings_cls)

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        """Look up one field, by its name or alias."""
        names = [name for name in (field.validation_alias, field.alias, field_name) if isinstance(name, str)]
        found = next((name for name in names if name in self._fields), field_name)
        return self._fields.get(found), found, False

    def __call__(self) -> dict[str, Any]:
        """Return what the platform knows of the class's fields."""
        found: dict[str, Any] = {}
        for field_name, field in self.settings_cls.model_fields.items():
            value, name, _ = self.get_field_value(field, field_name)
            if name in self._fields:
                found[name] = value
        return found
