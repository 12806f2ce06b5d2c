"""An OpenFeature provider: configs as flags (extra `openfeature`).

    from openfeature import api
    from llm_config_sdk import ConfigClient
    from llm_config_sdk.openfeature import LLMConfigProvider

    api.set_provider(LLMConfigProvider(ConfigClient(), "app/flags"))
    api.get_client().get_boolean_value("dark-mode", False)

A value that comes from the cache has the reason `CACHED`, one that stands in during an outage `STALE`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, TypeVar

try:
    from openfeature.exception import (
        FlagNotFoundError,
        GeneralError,
        OpenFeatureError,
        ProviderNotReadyError,
        TypeMismatchError,
    )
    from openfeature.flag_evaluation import FlagResolutionDetails, Reason
    from openfeature.provider import AbstractProvider, Metadata
except ModuleNotFoundError as _missing:  # pragma: no cover  # tests run with every extra
    raise ModuleNotFoundError(
        "flags need openfeature-sdk: pip install 'llm-config-sdk[openfeature]'"
    ) from _missing

from llm_config_sdk.errors import InvalidValueError, LLMConfigError
from llm_config_sdk.policy import is_absent, is_outage
from llm_config_sdk.values import convert

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from openfeature.evaluation_context import EvaluationContext
    from openfeature.flag_evaluation import FlagValueType

    from llm_config_sdk.client import AsyncConfigClient, ConfigClient
    from llm_config_sdk.contract import Environment, Source
    from llm_config_sdk.entries import ConfigEntry

T = TypeVar("T")

_REASONS: Final[Mapping[Source, Reason]] = {
    "server": Reason.STATIC,
    "cache": Reason.CACHED,
    "stale": Reason.STALE,
    "snapshot": Reason.STALE,
    "default": Reason.DEFAULT,
}


class LLMConfigProvider(AbstractProvider):
    """Resolves flags from the entries of one namespace.

    Args:
        client: Reads for the sync API; it stays yours to close.
        namespace: Where the flags live.
        env: The environment; left out, the client's.
        async_client: Reads for the async API; left out, that reads with `client`, which blocks the event loop
            for as long as a value is not cached.
    """

    def __init__(
        self,
        client: ConfigClient,
        namespace: str,
        *,
        env: Environment | str | None = None,
        async_client: AsyncConfigClient | None = None,
    ) -> None:
        super().__init__()
        self._client = client
        self._async_client = async_client
        self._namespace = namespace
        self._env = env

    def get_metadata(self) -> Metadata:
        """Name the provider."""
        return Metadata(name="llm-config")

    def resolve_boolean_details(
        self,
        flag_key: str,
        default_value: bool,  # noqa: FBT001  # OpenFeature's signature
        evaluation_context: EvaluationContext | None = None,
    ) -> FlagResolutionDetails[bool]:
        """Resolve a boolean."""
        del default_value, evaluation_context
        return self._resolve(flag_key, bool)

    def resolve_string_details(
        self, flag_key: str, default_value: str, evaluation_context: EvaluationContext | None = None
    ) -> FlagResolutionDetails[str]:
        """Resolve a string."""
        del default_value, evaluation_context
        return self._resolve(flag_key, str)

    def resolve_integer_details(
        self, flag_key: str, default_value: int, evaluation_context: EvaluationContext | None = None
    ) -> FlagResolutionDetails[int]:
        """Resolve an integer."""
        del default_value, evaluation_context
        return self._resolve(flag_key, int)

    def resolve_float_details(
        self, flag_key: str, default_value: float, evaluation_context: EvaluationContext | None = None
    ) -> FlagResolutionDetails[float]:
        """Resolve a number."""
        del default_value, evaluation_context
        return self._resolve(flag_key, float)

    def resolve_object_details(
        self,
        flag_key: str,
        default_value: Sequence[FlagValueType] | Mapping[str, FlagValueType],
        evaluation_context: EvaluationContext | None = None,
    ) -> FlagResolutionDetails[Any]:
        """Resolve an object or an array."""
        del default_value, evaluation_context
        return self._resolve(flag_key, dict[str, Any] | list[Any])

    async def resolve_boolean_details_async(
        self,
        flag_key: str,
        default_value: bool,  # noqa: FBT001  # OpenFeature's signature
        evaluation_context: EvaluationContext | None = None,
    ) -> FlagResolutionDetails[bool]:
        """Resolve a boolean."""
        del default_value, evaluation_context
        return await self._resolve_async(flag_key, bool)

    async def resolve_string_details_async(
        self, flag_key: str, default_value: str, evaluation_context: EvaluationContext | None = None
    ) -> FlagResolutionDetails[str]:
        """Resolve a string."""
        del default_value, evaluation_context
        return await self._resolve_async(flag_key, str)

    async def resolve_integer_details_async(
        self, flag_key: str, default_value: int, evaluation_context: EvaluationContext | None = None
    ) -> FlagResolutionDetails[int]:
        """Resolve an integer."""
        del default_value, evaluation_context
        return await self._resolve_async(flag_key, int)

    async def resolve_float_details_async(
        self, flag_key: str, default_value: float, evaluation_context: EvaluationContext | None = None
    ) -> FlagResolutionDetails[float]:
        """Resolve a number."""
        del default_value, evaluation_context
        return await self._resolve_async(flag_key, float)

    async def resolve_object_details_async(
        self,
        flag_key: str,
        default_value: Sequence[FlagValueType] | Mapping[str, FlagValueType],
        evaluation_context: EvaluationContext | None = None,
    ) -> FlagResolutionDetails[Any]:
        """Resolve an object or an array."""
        del default_value, evaluation_context
        return await self._resolve_async(flag_key, dict[str, Any] | list[Any])

    def _resolve(self, flag_key: str, wanted: Any) -> FlagResolutionDetails[Any]:
        try:
            return _details(self._client.get_config(self._namespace, flag_key, env=self._env), wanted)
        except LLMConfigError as error:
            raise _translated(error) from error

    async def _resolve_async(self, flag_key: str, wanted: Any) -> FlagResolutionDetails[Any]:
        if self._async_client is None:
            return self._resolve(flag_key, wanted)
        try:
            return _details(
                await self._async_client.get_config(self._namespace, flag_key, env=self._env), wanted
            )
        except LLMConfigError as error:
            raise _translated(error) from error


def _details(entry: ConfigEntry, wanted: Any) -> FlagResolutionDetails[Any]:
    return FlagResolutionDetails(
        value=convert(entry, wanted, strict=True, operation="resolve"),
        reason=_REASONS[entry.source],
        flag_metadata={"version": entry.version, "environment": entry.environment.value},
    )


def _translated(error: LLMConfigError) -> OpenFeatureError:
    if is_absent(error):
        return FlagNotFoundError(str(error))
    if isinstance(error, InvalidValueError):
        return TypeMismatchError(str(error))
    return ProviderNotReadyError(str(error)) if is_outage(error) else GeneralError(str(error))
