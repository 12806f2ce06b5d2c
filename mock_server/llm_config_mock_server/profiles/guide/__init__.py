"""The profile `guide`: the routes of the platform, and its Error Handling Guide's envelope on every error.

One module an area: `configs` (with `secrets` and `preconditions`), `rbac`, `vault` and `audit`,
each ending in its table of routes; `framework`, `limits` and `idempotency` say what HTTP itself
refuses; `refusals` and `envelope` say errors; `profile` has the order of all checks.
"""

from __future__ import annotations

from .profile import ROUTES, GuideProfile

__all__ = ["ROUTES", "GuideProfile", "make_profile"]


def make_profile() -> GuideProfile:
    """Make the profile of one server."""
    return GuideProfile()
