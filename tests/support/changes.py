"""Changes of a part, made as a careful client makes them."""

from __future__ import annotations

from typing import Any

import httpx

from tests.support.server import ok


def changed(
    http: httpx.Client, path: str, change: dict[str, Any], match: str | None = None
) -> httpx.Response:
    """PATCH on what is there now, or on what had this tag."""
    tag = match if match is not None else seen(http, path)
    return http.patch(path, json=change, headers={"If-Match": tag})


def seen(http: httpx.Client, path: str) -> str:
    """The entity tag of what is there."""
    answer = http.get(path)
    ok(answer)
    return answer.headers["etag"]
