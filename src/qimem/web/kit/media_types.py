"""What a body may be: JSON, and a merge patch (RFC 7396) where a part of something is changed."""

from __future__ import annotations

from collections.abc import Mapping

from qimem.web.kit.endpoint import Endpoint
from qimem.web.kit.errors import TransportError

_MERGE_PATCH = b"application/merge-patch+json"


def check_media(headers: Mapping[bytes, bytes], endpoint: Endpoint) -> None:
    """Refuse a body that is encoded, or of a media type that the endpoint does not read; none passes here.

    Raises:
        TransportError: 415.
    """
    if b"content-encoding" in headers:
        raise TransportError(
            415, "unsupported content encoding", "unsupported_media_type", hint="send the body unencoded"
        )
    media_type = headers.get(b"content-type")
    if media_type is not None and media_type != b"application/json":
        check_media_type(media_type, endpoint)


def check_media_type(media_type: bytes, endpoint: Endpoint) -> None:
    """Refuse a media type that the endpoint does not read.

    Raises:
        TransportError: 415.
    """
    essence = media_type.partition(b";")[0].strip().lower()
    if essence == b"application/json" or (endpoint.merges and essence == _MERGE_PATCH):
        return
    hint = "send Content-Type: application/json"
    if essence == b"application/x-www-form-urlencoded":
        hint = "form-encoded OAuth clients: /realms/{realm}/token"
    raise TransportError(415, "unsupported media type", "unsupported_media_type", hint=hint)
