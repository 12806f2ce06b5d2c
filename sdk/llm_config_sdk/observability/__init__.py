"""Seeing what a client does: logs, metrics, spans, grouped errors and alerts, from one stream of events.

    from llm_config_sdk.observability import AlertMonitor, PrometheusMetrics

    client = ConfigClient("https://config.example.com", listeners=[PrometheusMetrics(), AlertMonitor()])

Each part is loaded when it is first named; `PrometheusMetrics` needs the extra `prometheus`, and
`OpenTelemetry` the extra `otel`.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from llm_config_sdk.observability.aggregation import ErrorAggregator, ErrorStats
    from llm_config_sdk.observability.alerts import Alert, AlertMonitor, AlertRules
    from llm_config_sdk.observability.events import (
        Answered,
        CallEvent,
        Incident,
        ObservedCall,
        ObservedClient,
        Observer,
        Sending,
    )
    from llm_config_sdk.observability.families import error_type
    from llm_config_sdk.observability.logs import LogListener
    from llm_config_sdk.observability.otel import OpenTelemetry
    from llm_config_sdk.observability.prometheus.metrics import PrometheusMetrics

__all__ = [
    "Alert",
    "AlertMonitor",
    "AlertRules",
    "Answered",
    "CallEvent",
    "ErrorAggregator",
    "ErrorStats",
    "Incident",
    "LogListener",
    "ObservedCall",
    "ObservedClient",
    "Observer",
    "OpenTelemetry",
    "PrometheusMetrics",
    "Sending",
    "error_type",
]

_HOMES: Final = {
    "Alert": "alerts",
    "AlertMonitor": "alerts",
    "AlertRules": "alerts",
    "Answered": "events",
    "CallEvent": "events",
    "ErrorAggregator": "aggregation",
    "ErrorStats": "aggregation",
    "Incident": "events",
    "LogListener": "logs",
    "ObservedCall": "events",
    "ObservedClient": "events",
    "Observer": "events",
    "OpenTelemetry": "otel",
    "PrometheusMetrics": "prometheus.metrics",
    "Sending": "events",
    "error_type": "families",
}


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = getattr(importlib.import_module(f"{__name__}.{home}"), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
