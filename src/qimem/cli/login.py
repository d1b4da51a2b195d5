"""Signs in over HTTP with the standard library alone: `$(qimem token)` has to be quick."""

from __future__ import annotations

import http.client
import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from qimem.cli.output import ServerRefused, Unreachable
from qimem.kernel.refusal import Refused

_SECONDS = 15.0
_ANSWER_BYTES_MAX = 1 << 20


def post(
    base_url: str, path: str, body: Mapping[str, object], *, bearer: str | None = None
) -> dict[str, Any]:
    """POST JSON, read JSON.

    Raises:
        Unreachable: nobody answered, or not in HTTP.
        ServerRefused: the answer is not a 200 with a JSON object.
    """
    parts = urlsplit(base_url)
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    headers = {"Content-Type": "application/json"}
    if bearer is not None:
        headers["Authorization"] = f"Bearer {bearer}"
    connection = kind(parts.hostname or "", parts.port, timeout=_SECONDS)
    try:
        connection.request("POST", parts.path + path, json.dumps(body), headers)
        answer = connection.getresponse()
        raw = answer.read(_ANSWER_BYTES_MAX)
    except (OSError, http.client.HTTPException) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else type(error).__name__
        raise Unreachable(f"no answer from {base_url}: {reason}") from error
    finally:
        connection.close()
    try:
        content = json.loads(raw)
    except ValueError:
        content = None
    if answer.status != 200 or not isinstance(content, dict):
        raise ServerRefused(answer.status, content if isinstance(content, dict) else {})
    return content


def access_token(credentials: Mapping[str, Any], base_url: str) -> str:
    """A fresh access token: as the user where there is a password, else as the client.

    Raises:
        Refused: the credentials are incomplete.
    """
    try:
        body = {name: credentials[name] for name in ("client_id", "client_secret", "realm_id")}
    except KeyError as error:
        raise Refused(f"the credentials hold no {error.args[0]}") from error
    if credentials.get("password"):
        body |= {"username": credentials.get("username"), "password": credentials["password"]}
    else:
        body["grant_type"] = "client_credentials"
    return str(post(base_url, "/v1/auth/token", body)["access_token"])
