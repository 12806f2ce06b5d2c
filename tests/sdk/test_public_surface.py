"""What `llm_config_sdk` offers, name by name: a name that comes or goes is a decision, not an accident."""

import inspect
import subprocess
import sys

import pytest

import llm_config_sdk
from llm_config_sdk import client, transport

SURFACE = [
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
TRANSPORT = [
    "MAX_IN_FLIGHT",
    "AsyncInjectedTransport",
    "AsyncStackTransport",
    "AsyncTransport",
    "ClientCertificate",
    "Endpoint",
    "Family",
    "InjectedTransport",
    "StackTransport",
    "TlsVersion",
    "Transport",
    "Verification",
    "WireRequest",
    "ssl_context",
    "waited_in_line",
]
HEAVY = {
    "httpx2",
    "httpcore2",
    "redis",
    "prometheus_client",
    "opentelemetry",
    "typer",
    "rich",
    "trio",
    "uvicorn",
}


@pytest.mark.parametrize(
    ("package", "names"),
    [
        (llm_config_sdk, SURFACE),
        (transport, TRANSPORT),
        (client, ["AsyncConfigClient", "ConfigClient"]),
    ],
    ids=["llm_config_sdk", "transport", "client"],
)
def test_a_package_offers_exactly_these_names(package, names):
    assert package.__all__ == names
    for name in names:
        assert hasattr(package, name)


def test_the_names_are_sorted():
    assert sorted(SURFACE, key=lambda name: (not name.isupper(), name)) == SURFACE


def test_users_see_the_place_they_import_from():
    for name in SURFACE:
        member = getattr(llm_config_sdk, name)
        if isinstance(member, type):
            home = "llm_config_resilience" if name == "RetryPolicy" else "llm_config_sdk"
            assert member.__module__ == home, name


def test_everything_public_is_documented():
    for name in SURFACE:
        member = getattr(llm_config_sdk, name)
        if inspect.isclass(member):
            assert inspect.getdoc(member), name


def test_importing_loads_nothing_heavy_starts_nothing_and_configures_nothing():
    program = (
        "import logging, sys, threading\n"
        "import httpx, pydantic, pybreaker, tenacity\n"  # which load what they find of their own extras
        "before = set(sys.modules)\n"
        "import llm_config_sdk\n"
        f"print(sorted({HEAVY!r} & sys.modules.keys() - before))\n"
        "loggers = logging.getLogger('llm_config_sdk'), logging.root\n"
        "print(threading.active_count(), *(logger.handlers for logger in loggers))\n"
        "print(*(logger.level for logger in loggers))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["[]", "1 [<NullHandler (NOTSET)>] []", "0 30"]
