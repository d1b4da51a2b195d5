"""Paths to endpoints: exact ones by one dictionary, the few with parameters by their segments."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from qimem.web.kit.endpoint import Endpoint
from qimem.web.kit.errors import TransportError

_NO_PARAMETERS: Mapping[str, str] = {}
_DOTS = frozenset({".", ".."})
_VERSION = re.compile(r"/v[0-9]+(/|$)")

Route = tuple[Endpoint, Mapping[str, str]]


class Router:
    """Finds the endpoint of a request."""

    def __init__(self, endpoints: Sequence[Endpoint]) -> None:
        self._exact: dict[tuple[str, str], Route] = {}
        self._methods: dict[str, set[str]] = {}
        self._patterns: list[tuple[tuple[str, ...], dict[str, Endpoint]]] = []
        for endpoint in endpoints:
            if "{" in endpoint.path:
                self._add_pattern(endpoint)
            else:
                self._exact[endpoint.method, endpoint.path] = (endpoint, _NO_PARAMETERS)
                self._methods.setdefault(endpoint.path, set()).add(endpoint.method)

    def find(self, method: str, path: str) -> Route:
        """The endpoint and its path parameters.

        Raises:
            TransportError: 400 for a path that is not canonical, 404, or 405 with `Allow`.
        """
        wanted = "GET" if method == "HEAD" else method
        found = self._exact.get((wanted, path))
        if found is not None:
            return found
        matched = self._match(path)
        if matched is not None:
            by_method, parameters = matched
            if wanted in by_method:
                return by_method[wanted], parameters
        allowed = self.allowed(path)
        if allowed:
            raise TransportError(
                405, f"method not allowed: {method}", "method_not_allowed", headers=allow_header(allowed)
            )
        raise self._not_found(path)

    def allowed(self, path: str) -> list[str]:
        """Methods of a path in order; empty for an unknown path."""
        methods = set(self._methods.get(path, ()))
        matched = self._match(path)
        if matched is not None:
            methods |= matched[0].keys()
        if not methods:
            return []
        return sorted(methods | {"OPTIONS"} | ({"HEAD"} if "GET" in methods else set()))

    def _add_pattern(self, endpoint: Endpoint) -> None:
        segments = tuple(endpoint.path.split("/"))
        for known, by_method in self._patterns:
            if known == segments:
                by_method[endpoint.method] = endpoint
                return
        self._patterns.append((segments, {endpoint.method: endpoint}))

    def _match(self, path: str) -> tuple[dict[str, Endpoint], Mapping[str, str]] | None:
        given = path.split("/")
        for segments, by_method in self._patterns:
            if len(segments) != len(given):
                continue
            parameters: dict[str, str] = {}
            for segment, value in zip(segments, given, strict=True):
                if segment.startswith("{") and value and value not in _DOTS and "\\" not in value:
                    parameters[segment[1:-1]] = value
                elif segment != value:
                    break
            else:
                return by_method, parameters
        return None

    def _not_found(self, path: str) -> TransportError:
        if "//" in path or "\\" in path or not _DOTS.isdisjoint(path.split("/")):
            # Reject, never repair: a repaired path has passed someone's check under another name.
            return TransportError(400, "path is not canonical", "invalid_request")
        hint = None
        if path.endswith("/") and self.allowed(path.rstrip("/")):
            hint = f"the path is {path.rstrip('/')}"
        elif _VERSION.match(path) and not path.startswith("/v1/") and path != "/v1":
            hint = "this server speaks v1"
        return TransportError(404, "not found", "not_found", hint=hint)


def allow_header(methods: Sequence[str]) -> bytes:
    """The `Allow` line."""
    return b"allow: %s\r\n" % ", ".join(methods).encode()
