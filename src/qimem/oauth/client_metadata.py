"""What client metadata may say. One validator for every path that writes a client.

Redirect URIs are compared byte for byte when used, so they are judged once, here: a wildcard,
fragment, user-info or lenient scheme has been a token leak in every product that allowed it
(authentik CVE-2024-52289, Keycloak CVE-2023-6291).
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import SplitResult, urlsplit

from qimem.errors import InvalidFields
from qimem.kernel.ids import display_name_fault
from qimem.kernel.limits import (
    CLIENT_METADATA_BYTES_MAX,
    JWKS_KEYS_MAX,
    REDIRECT_URIS_MAX,
    SCOPE_CHARS_MAX,
    URI_CHARS_MAX,
)

if TYPE_CHECKING:
    from qimem.oauth.registration import Registration

_LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
_PRIVATE_SCHEME = re.compile(r"[a-z][a-z0-9+-]*(\.[a-z0-9+-]+)+")
_BRACKETED = re.compile(r"\[[0-9A-Fa-f:.]+\](:[0-9]+)?")
_VISIBLE = re.compile(r"[!-~]+")
_SCOPE = re.compile(r"[!#-\[\]-~]+( [!#-\[\]-~]+)*")
_PRIVATE_JWK_MEMBERS = frozenset({"d", "p", "q", "dp", "dq", "qi", "oth", "k"})


def merged(before: dict[str, Any] | None, patch: dict[str, Any]) -> dict[str, Any]:
    """An object after a merge patch (RFC 7396 §2): null takes a member away, objects are merged, the rest replaces."""
    after = dict(before or {})
    for name, value in patch.items():
        if value is None:
            after.pop(name, None)
        elif isinstance(value, dict):
            inner = after.get(name)
            after[name] = merged(inner if isinstance(inner, dict) else None, value)
        else:
            after[name] = value
    return after


def check_redirect_uris(uris: Sequence[str], pointer: str) -> None:
    """Refuse redirect URIs that are not exact, absolute and safe to send a code to.

    Allowed: https; http on localhost, 127.0.0.1 or [::1] (RFC 8252 §7.3); a private-use scheme that
    contains a dot (RFC 8252 §7.1). Never a fragment, user-info, `*`, backslash or control.

    Raises:
        InvalidFields: points at the first unusable one.
    """
    if len(uris) > REDIRECT_URIS_MAX:
        raise InvalidFields({pointer: f"at most {REDIRECT_URIS_MAX}"})
    for index, uri in enumerate(uris):
        reason = _redirect_fault(uri)
        if reason is not None:
            raise InvalidFields({f"{pointer}/{index}": reason})


def _redirect_fault(uri: str) -> str | None:
    if (
        len(uri) > URI_CHARS_MAX
        or _VISIBLE.fullmatch(uri) is None
        or any(char in uri for char in '*\\"<>^`{|}')
    ):
        return "not a URI without wildcards, spaces and backslashes"
    try:
        parts = urlsplit(uri)
        port_ok = parts.port is None or 0 < parts.port < 65_536
    except ValueError:
        return "not an absolute URI"
    if "#" in uri:
        return "must not have a fragment"
    if "@" in parts.netloc:
        return "must not have user information"
    # urlsplit reads the host out of the first pair of brackets, wherever it stands.
    if "[" in uri and _BRACKETED.fullmatch(parts.netloc) is None:
        return "not an absolute URI"
    # urlsplit folds the scheme; what is compared later is the spelling itself.
    if not parts.scheme or not uri.startswith(parts.scheme + ":") or not port_ok:
        return "not an absolute URI with a lower-case scheme"
    return _scheme_fault(parts)


def _scheme_fault(parts: SplitResult) -> str | None:
    if parts.scheme == "https":
        return None if parts.hostname else "needs a host"
    if parts.scheme == "http":
        return None if parts.hostname in _LOOPBACK else "http is only for localhost, 127.0.0.1 and [::1]"
    if _PRIVATE_SCHEME.fullmatch(parts.scheme):
        return None
    return "scheme must be https, http on loopback, or private with a dot in it"


def check_metadata(registration: Registration) -> None:
    """Refuse the rest of a registration where it is unusable.

    Raises:
        InvalidFields: points at the first unusable member.
    """
    fault = None if registration.name is None else display_name_fault(registration.name)
    if fault is not None:
        raise InvalidFields({"/name": fault})
    if registration.response_types is not None and list(registration.response_types) not in ([], ["code"]):
        raise InvalidFields({"/response_types": "only code is offered"})
    scope = registration.scope
    if scope is not None and (len(scope) > SCOPE_CHARS_MAX or _SCOPE.fullmatch(scope) is None):
        raise InvalidFields({"/scope": "scope tokens of RFC 6749 §3.3 with single spaces between"})
    if registration.jwks is not None and registration.jwks_uri is not None:
        raise InvalidFields({"/jwks_uri": "jwks and jwks_uri exclude each other (RFC 7591 §2)"})
    if registration.jwks_uri is not None and _https_fault(registration.jwks_uri):
        raise InvalidFields({"/jwks_uri": "must be an https URI"})
    if registration.jwks is not None:
        _check_jwks(registration.jwks)


def _https_fault(uri: str) -> bool:
    return not uri.startswith("https://") or _redirect_fault(uri) is not None


def _check_jwks(jwks: dict[str, object]) -> None:
    keys = jwks.get("keys")
    if isinstance(keys, list) and len(keys) > JWKS_KEYS_MAX:
        raise InvalidFields({"/jwks": f"at most {JWKS_KEYS_MAX} keys"})
    if not isinstance(keys, list) or not all(
        isinstance(key, dict) and isinstance(key.get("kty"), str) for key in keys
    ):
        raise InvalidFields({"/jwks": "must be a JWK Set with a keys array (RFC 7517 §5)"})
    if any(_PRIVATE_JWK_MEMBERS & key.keys() for key in keys):
        raise InvalidFields({"/jwks": "must hold public keys only"})
    if len(json.dumps(jwks)) > CLIENT_METADATA_BYTES_MAX:
        raise InvalidFields({"/jwks": f"at most {CLIENT_METADATA_BYTES_MAX} bytes"})
