"""Signs in over HTTP with the standard library alone: `$(qimem token)` has to be quick."""

from __future__ import annotations

import http.client
import json
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import click

from qimem.cli.output import ServerRefused, Unreachable
from qimem.kernel.addresses import keeps_secrets
from qimem.kernel.refusal import Refused

if TYPE_CHECKING:
    from qimem.config.schema import Settings

_SECONDS = 15.0
_ANSWER_BYTES_MAX = 1 << 20


@dataclass(frozen=True, slots=True)
class Server:
    """A server that may be told passwords and secrets: only `at` makes one.

    Args:
        url: As it was named.
        tls: Whether it is reached by https.
        host: Name or IP address.
        port: None: that of the scheme.
        path: What stands before `/v1`, mostly nothing.
        trusted: How its certificate is judged; None: as the system does, `SSL_CERT_FILE` included.
    """

    url: str
    tls: bool
    host: str
    port: int | None
    path: str
    trusted: ssl.SSLContext | None = None

    @classmethod
    def own(cls, settings: Settings, url: str) -> Server:
        """The server that this process runs on this machine; of its certificate it knows more than its name.

        Args:
            settings: Those that it runs with.
            url: Its address.
        """
        server = cls.at(url)
        return (
            server if settings.tls.cert is None else replace(server, trusted=trusting_only(settings.tls.cert))
        )

    @classmethod
    def at(cls, base_url: str, *, allow_plain_http: bool = False) -> Server:
        """The server of an address.

        Args:
            base_url: `http://host:port` or `https://host`.
            allow_plain_http: Also to another machine, where the network itself is trusted.

        Raises:
            click.UsageError: it is none of these, or another machine's without TLS.
        """
        context = click.get_current_context(silent=True)
        try:
            parts = urlsplit(base_url)
            host, port, private = parts.hostname, parts.port, keeps_secrets(base_url)
        except ValueError:
            host, port, private = None, None, False
        if not host or parts.scheme not in {"http", "https"}:
            raise click.UsageError("the address of the server is no http or https URL", context)
        if not private and not allow_plain_http:
            raise click.UsageError(
                f"secrets are not sent to {host} without TLS: name it with https, "
                "or pass --allow-plain-http where the network is trusted",
                context,
            )
        return cls(base_url, parts.scheme == "https", host, port, parts.path.rstrip("/"))


def trusting_only(certificate: Path) -> ssl.SSLContext:
    """What is spoken to the server that holds the key of this certificate, whatever it is called.

    Args:
        certificate: A file in PEM.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    context.load_verify_locations(cafile=certificate)
    return context


def post(
    server: Server, path: str, body: Mapping[str, object], *, bearer: str | None = None
) -> dict[str, Any]:
    """POST JSON, read JSON.

    Raises:
        Unreachable: nobody answered, or not in HTTP.
        ServerRefused: the answer is not a 200 with a JSON object.
    """
    headers = {"Content-Type": "application/json"}
    if bearer is not None:
        headers["Authorization"] = f"Bearer {bearer}"
    connection = http.client.HTTPConnection(server.host, server.port, timeout=_SECONDS)
    if server.tls:
        connection = http.client.HTTPSConnection(
            server.host, server.port, timeout=_SECONDS, context=server.trusted
        )
    try:
        connection.request("POST", server.path + path, json.dumps(body), headers)
        answer = connection.getresponse()
        raw = answer.read(_ANSWER_BYTES_MAX)
    except (OSError, http.client.HTTPException) as error:
        raise Unreachable(f"no answer from {server.url}: {_reason(error)}") from error
    finally:
        connection.close()
    try:
        content = json.loads(raw)
    except ValueError:
        content = None
    if answer.status != 200 or not isinstance(content, dict):
        raise ServerRefused(answer.status, content if isinstance(content, dict) else {})
    return content


def _reason(error: OSError | http.client.HTTPException) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        # OpenSSL reads the variable.
        return f"certificate not trusted: {error.verify_message} (SSL_CERT_FILE names other authorities)"
    return error.strerror if isinstance(error, OSError) and error.strerror else type(error).__name__


def access_token(server: Server, credentials: Mapping[str, Any], totp_code: str | None = None) -> str:
    """A fresh access token: as the user where there is a password, else as the client.

    Args:
        server: Who is asked.
        credentials: What `server.credentials` writes.
        totp_code: Of the user's second factor, six digits or a recovery code.

    Raises:
        Refused: the credentials are incomplete.
        click.UsageError: a code, and no password.
        ServerRefused: the credentials are not good; `mfa_required`: a code is missing.
        Unreachable: nobody answered.
    """
    try:
        body = {name: credentials[name] for name in ("client_id", "client_secret", "realm_id")}
    except KeyError as error:
        raise Refused(f"the credentials hold no {error.args[0]}") from error
    if credentials.get("password"):
        body |= {"username": credentials.get("username"), "password": credentials["password"]}
        if totp_code is not None:
            body["totp_code"] = totp_code
    elif totp_code is not None:
        raise click.UsageError("a client has no second factor, and the credentials hold no user's password")
    else:
        body["grant_type"] = "client_credentials"
    return str(post(server, "/v1/auth/token", body)["access_token"])
