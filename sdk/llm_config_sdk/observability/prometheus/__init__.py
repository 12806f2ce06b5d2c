"""Prometheus: the metrics of a client, and the rules and the dashboard that are made for them.

The files are shipped with the package; `RULES` goes under `rule_files` in Prometheus's configuration, and
`DASHBOARD` is imported into Grafana.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from llm_config_sdk.observability.prometheus.metrics import PrometheusMetrics

__all__ = ["DASHBOARD", "RULES", "PrometheusMetrics"]

RULES: Final = Path(__file__).with_name("rules.yml")
"""The guide's four alerts, as rules of a Prometheus server."""
DASHBOARD: Final = Path(__file__).with_name("dashboard.json")
"""A dashboard for Grafana 9 and later."""


def __getattr__(name: str) -> Any:
    if name != "PrometheusMetrics":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from llm_config_sdk.observability.prometheus.metrics import PrometheusMetrics  # noqa: PLC0415  # an extra

    return PrometheusMetrics
