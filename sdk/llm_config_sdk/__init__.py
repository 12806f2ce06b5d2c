"""The typed client for the LLM Config Manager platform, sync and async.

from llm_config_sdk import ConfigClient

with ConfigClient("https://config.example.com", token="…") as client:
    model = client.get_str("app/llm", "model", env="production")
"""

import logging

from llm_config_resilience import RetryPolicy
from llm_config_sdk._version import __version__
from llm_config_sdk.binding import LLMConfigSettingsSource
from llm_config_sdk.client import AsyncConfigClient, ConfigClient
from llm_config_sdk.contract import Environment, ErrorCategory, ErrorCode, Health, Metadata, Module
from llm_config_sdk.entries import ConfigEntry, HistoryEntry
from llm_config_sdk.errors import (
    AllEndpointsFailedError,
    AuditError,
    CacheError,
    ClientError,
    ConfigError,
    ConflictError,
    ConnectFailedError,
    CryptoError,
    DatabaseError,
    DecryptionError,
    EncryptionError,
    InternalError,
    InvalidKeyError,
    InvalidNamespaceError,
    InvalidRequestError,
    InvalidValueError,
    LLMConfigError,
    NotFoundError,
    PermissionDeniedError,
    RateLimitExceededError,
    RbacError,
    RequestTimeoutError,
    ResponseDecodeError,
    ResponseFacts,
    ServerError,
    ServiceCircuitOpenError,
    ServiceUnavailableError,
    StorageError,
    SystemFailure,
    TransportError,
    UnauthorizedError,
    ValidationError,
    ValidationFailure,
    VersionNotFoundError,
)
from llm_config_sdk.many import Outcome
from llm_config_sdk.plans import UNSET
from llm_config_sdk.policy import BreakerPolicy, CachePolicy, RateLimitPolicy, ResiliencePolicy
from llm_config_sdk.snapshot import SnapshotPolicy
from llm_config_sdk.status import ClientStatus, EndpointStatus
from llm_config_sdk.transport import AsyncStackTransport, StackTransport
from llm_config_sdk.watching import Change

__all__ = [
    "UNSET",
    "AllEndpointsFailedError",
    "AsyncConfigClient",
    "AsyncStackTransport",
    "AuditError",
    "BreakerPolicy",
    "CacheError",
    "CachePolicy",
    "Change",
    "ClientError",
    "ClientStatus",
    "ConfigClient",
    "ConfigEntry",
    "ConfigError",
    "ConflictError",
    "ConnectFailedError",
    "CryptoError",
    "DatabaseError",
    "DecryptionError",
    "EncryptionError",
    "EndpointStatus",
    "Environment",
    "ErrorCategory",
    "ErrorCode",
    "Health",
    "HistoryEntry",
    "InternalError",
    "InvalidKeyError",
    "InvalidNamespaceError",
    "InvalidRequestError",
    "InvalidValueError",
    "LLMConfigError",
    "LLMConfigSettingsSource",
    "Metadata",
    "Module",
    "NotFoundError",
    "Outcome",
    "PermissionDeniedError",
    "RateLimitExceededError",
    "RateLimitPolicy",
    "RbacError",
    "RequestTimeoutError",
    "ResiliencePolicy",
    "ResponseDecodeError",
    "ResponseFacts",
    "RetryPolicy",
    "ServerError",
    "ServiceCircuitOpenError",
    "ServiceUnavailableError",
    "SnapshotPolicy",
    "StackTransport",
    "StorageError",
    "SystemFailure",
    "TransportError",
    "UnauthorizedError",
    "ValidationError",
    "ValidationFailure",
    "VersionNotFoundError",
    "__version__",
]

# Where an application sets no logging up, Python would print what a library logs to stderr.
logging.getLogger(__name__).addHandler(logging.NullHandler())

# Tracebacks and pickles name the place that users import from.
for _name in __all__:
    _member = globals()[_name]
    if isinstance(_member, type) and _member.__module__.startswith("llm_config_sdk."):
        _member.__module__ = "llm_config_sdk"
