"""The OpenAPI document of the profile `guide`."""

from __future__ import annotations

from typing import Any, Final

PATH: Final = "/openapi.json"
PROFILE: Final = "guide"


def document() -> dict[str, Any]:
    """Return the document."""
    return {"openapi": "3.1.0", "info": {"title": "LLM Config Manager", "version": "0.5.0"}, "paths": {}}
