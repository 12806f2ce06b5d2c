#!/usr/bin/env python3
"""A Django project in one file: settings from the platform, and views that go on when the platform does not.

LLM_CONFIG_BASE_URL=… LLM_CONFIG_TOKEN=… python django_site.py runserver --noreload 8000
"""

from __future__ import annotations

import sys
from functools import cache
from typing import TYPE_CHECKING, Any

from django.conf import settings
from django.core.management import execute_from_command_line
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.urls import path

from llm_config_sdk import ConfigClient, LLMConfigError

if TYPE_CHECKING:
    from collections.abc import Callable

FALLBACKS = {("app/llm", "model"): "gpt-4o-mini"}  # for an outage that begins before the first read


@cache
def configs() -> ConfigClient:
    """Make the client at the first request: one for all threads of the process."""
    return ConfigClient(timeout=2.0, fallback=FALLBACKS)


class ExplainErrors:
    """Middleware: what the platform's errors mean to our callers, once, for every view."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        """Stand before the views."""
        self._get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        """Let a request through."""
        return self._get_response(request)

    def process_exception(self, _request: HttpRequest, error: Exception) -> HttpResponse | None:
        """Answer 503 to what may pass; leave everything else to Django."""
        if not isinstance(error, LLMConfigError) or not (error.is_transient or error.is_rate_limited):
            return None
        headers = {"Retry-After": f"{error.retry_after:.0f}"} if error.retry_after else None
        return JsonResponse({"error": type(error).__name__, "hint": error.hint}, status=503, headers=headers)


def model(_request: HttpRequest) -> JsonResponse:
    """Answer with the model in use, and say how sure that is."""
    entry = configs().get_config("app/llm", "model")
    return JsonResponse({"model": entry.value, "source": entry.source, "stale": entry.is_stale})


def limits(_request: HttpRequest) -> JsonResponse:
    """Answer with a setting that there is no substitute for."""
    return JsonResponse({"max_tokens": configs().get_int("app/llm", "max_tokens")})


urlpatterns = [path("model", model), path("limits", limits)]

SETTINGS: dict[str, Any] = {
    "ALLOWED_HOSTS": ["127.0.0.1", "localhost"],
    "MIDDLEWARE": [f"{__name__}.ExplainErrors"],
    "ROOT_URLCONF": __name__,
    "SECRET_KEY": "signs nothing here",
    "USE_TZ": True,
}

if __name__ == "__main__":
    settings.configure(**SETTINGS)
    execute_from_command_line(sys.argv)
