"""What a rule is about: the requests, or the new connections, that it may take."""

from __future__ import annotations

from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Final, Self

from llm_config_sdk.contract import Environment

if TYPE_CHECKING:
    from collections.abc import Mapping

    from llm_config_mock_server.messages import Request

_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Match:
    """Which requests a rule or a question is about; what is not given matches everything.

    Args:
        method: The method, in any letter case.
        path: A glob (`*`, `?`, `[…]`) of the raw path or of the percent-decoded one.
        namespace: A glob of the namespace.
        key: A glob of the config's key.
        env: An environment, by any of its names.
        headers: Globs of header values, by header name.
        token: A bearer token.
        connection: The rule is about new connections, not about requests.
    """

    method: str | None = None
    path: str | None = None
    namespace: str | None = None
    key: str | None = None
    env: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict[str, str])
    token: str | None = None
    connection: bool = False

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `"GET /health"`, `"POST"`, `"/api/v1/*"`, `"*"`, or a config: `"GET app/llm/model"`, `"a/*"`.

        Raises:
            ValueError: It is none of these, or names a method that there is not.
        """
        words = text.split()
        method = words.pop(0).upper() if words and words[0].isalpha() else None
        if method is not None and method not in _METHODS:
            raise ValueError(f"{text!r} is no match: {method} is no method of HTTP")
        path = words.pop(0) if words and words[0][0] in "/*" else None
        namespace = key = None
        if path is None and words and "/" in words[0]:
            namespace, _, key = words.pop(0).rpartition("/")
        if words or (method is None and path is None and namespace is None):
            raise ValueError(
                f"{text!r} is no match: expected a method, a path or a config (globs), or a method and one of"
                " them, as in 'GET /health' or 'GET app/llm/model'"
            )
        return cls(method=method, path=path, namespace=namespace, key=key or None)

    def covers(self, request: Request) -> bool:
        """Say whether a request is meant."""
        return (
            not self.connection
            and (self.method is None or self.method.upper() == request.method)
            and (
                self.path is None
                or any(_glob(path, self.path) for path in (request.path, request.decoded_path))
            )
            and (self.namespace is None or _glob(request.namespace, self.namespace))
            and (self.key is None or _glob(request.key, self.key))
            and (self.env is None or request.environment == str(Environment.parse(self.env)))
            and (self.token is None or self.token == request.token)
            and all(_glob(request.header(name), pattern) for name, pattern in self.headers.items())
        )

    def __str__(self) -> str:
        """Say it in the words of a failed assertion: `GET of app/llm/model in staging`."""
        if self.connection:
            return "connection"
        config = "/".join(
            part for part in (self.namespace, self.key or ("*" if self.namespace else None)) if part
        )
        words = [self.method.upper() if self.method else "request"]
        words += [f"of {config}"] if config else []
        words += [f"to {self.path}"] if self.path else []
        words += [f"in {self.env}"] if self.env else []
        words += [f"with {name}: {pattern}" for name, pattern in self.headers.items()]
        words += ["with a certain token"] if self.token else []
        return " ".join(words)


def _glob(text: str | None, pattern: str) -> bool:
    return text is not None and fnmatchcase(text, pattern)
