"""A visit: a call that found its route, who it is from, and what it may do."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from llm_config_mock_server.audit import AuditSubject
from llm_config_mock_server.messages import Reply, Request
from llm_config_sdk.contract import USER_ID_HEADER, Environment, ErrorCode, Module

from .bodies import parse_json
from .refusals import RefusedError, config_error, variant_error

if TYPE_CHECKING:
    from llm_config_mock_server.core import Call, Platform
    from llm_config_mock_server.rbac import Principal


@dataclass(frozen=True, slots=True)
class Visit:
    """A call that found its route: who it is from and what the path says."""

    platform: Platform
    call: Call
    principal: Principal
    arguments: tuple[str, ...]

    @property
    def request(self) -> Request:
        """The request."""
        return self.call.request

    def parameter(self, name: str) -> str | None:
        """Return a query parameter, or `None`.

        Raises:
            RefusedError: It is given twice.
        """
        values = self.request.parameters.get(name)
        if values is None:
            return None
        if len(values) > 1:
            raise RefusedError(
                ErrorCode.INVALID_REQUEST, f"Query parameter given twice: {name}", details={"field": name}
            )
        return values[0]

    def body(self) -> dict[str, Any]:
        """Return the body, a JSON object.

        Raises:
            RefusedError: It is none.
        """
        data = parse_json(self.request.body)
        if not isinstance(data, dict):
            raise config_error("ValidationError", "The body must be a JSON object", field="body")
        return cast("dict[str, Any]", data)

    def need(self, permission: str, what: str) -> None:
        """Check that one of the caller's roles permits this.

        Raises:
            RefusedError: None does (`rbac.AccessDenied`).
        """
        if not self.platform.rbac.allows(self.principal, permission):
            self.record_denial(what, None)
            roles = ", ".join(sorted({grant.role for grant in self.principal.grants})) or "none"
            raise variant_error(
                Module.RBAC,
                "AccessDenied",
                f"Access denied: {self.principal.user!r} (roles: {roles}) needs the permission {permission}",
                user=self.principal.user,
                permission=permission,
            )

    def need_in(self, permission: str, namespace: str, environment: Environment | None = None) -> None:
        """Check that a role of the caller permits this, and that its scope reaches the namespace.

        Raises:
            RefusedError: No role permits it (`rbac.AccessDenied`), or none that reaches so far
                (`config.PermissionDenied`).
        """
        self.need(permission, namespace)
        if not self.platform.rbac.allows_in(self.principal, permission, namespace):
            self.record_denial(namespace, environment)
            raise config_error(
                "PermissionDenied",
                f"Permission denied: {self.principal.user!r} may not {permission} in namespace {namespace!r}",
                user=self.principal.user,
                operation=permission,
                namespace=namespace,
            )

    def subject(self, kind: str, resource: str, environment: Environment | None = None) -> AuditSubject:
        """Say who does what to what, for the audit log."""
        return AuditSubject(
            type=kind,
            user=self.principal.user,
            user_id=self.request.header(USER_ID_HEADER),
            resource=resource,
            environment=None if environment is None else str(environment),
            request_id=self.call.request_id,
        )

    def record_denial(self, resource: str, environment: Environment | None) -> None:
        """Write a denied request down."""
        subject = self.subject("access.denied", resource, environment)
        self.platform.audit.append(subject, self.call.at, "denied")


Handler = Callable[[Visit], Reply]
