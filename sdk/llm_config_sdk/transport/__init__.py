"""The seam to the HTTP libraries: a request in, a reply or an error of this SDK out."""

from llm_config_sdk.transport.exchange import AsyncTransport, Endpoint, Transport, WireRequest
from llm_config_sdk.transport.injected import AsyncInjectedTransport, InjectedTransport
from llm_config_sdk.transport.mapping import waited_in_line
from llm_config_sdk.transport.slots import MAX_IN_FLIGHT
from llm_config_sdk.transport.stack import AsyncStackTransport, Family, StackTransport
from llm_config_sdk.transport.tls import ClientCertificate, TlsVersion, Verification, ssl_context

__all__ = [
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
