"""The admin interface: the server's own faults, conditions, journal and entries over HTTP.

Requests to it meet no fault, are in no journal and count against no limit. They come from the
loopback or with the token of an admin; from a browser, only from pages of this server itself.
"""

from __future__ import annotations

from .interface import ADMIN_PREFIX, RULES_MAX, Admin

__all__ = ["ADMIN_PREFIX", "RULES_MAX", "Admin"]
