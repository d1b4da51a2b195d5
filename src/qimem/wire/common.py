"""Shapes that every part of the API shares: the strict request base, errors, pages, health."""

from __future__ import annotations

from typing import Any, Generic, TypeVar

import msgspec

T = TypeVar("T")


class _Unprinted(msgspec.Struct, frozen=True):
    # Passwords, secrets, plaintexts and tokens stand in these: a log line or a traceback must not show them.
    def __repr__(self) -> str:
        return f"<{type(self).__name__}>"


class Request(_Unprinted, forbid_unknown_fields=True, frozen=True, kw_only=True, gc=False):
    """Base of every request body."""


class Response(_Unprinted, frozen=True, kw_only=True, gc=False):
    """Base of every response body."""


class EmptyRequest(Request, frozen=True, kw_only=True):
    """For operations that need no field."""


class ErrorBody(Response, frozen=True, kw_only=True, omit_defaults=True):
    """Every error of the API.

    Args:
        error: Text for people.
        code: Stable machine word.
        request_id: The id under which the log knows more.
        hint: What to do next.
        fields: JSON pointer → reason.
        permission: The permission that was missing.
        resource: What it was needed on.
        object_id: The object that an earlier call with the same Idempotency-Key made.
    """

    error: str
    code: str
    request_id: str = ""
    hint: str | None = None
    fields: dict[str, str] | None = None
    permission: str | None = None
    resource: str | None = None
    object_id: str | None = None


class ListQuery(msgspec.Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """Query of a list."""

    limit: int | None = None
    cursor: str | None = None
    realm_id: str | None = None


class RealmQuery(msgspec.Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """Query of reads that only name a realm."""

    realm_id: str | None = None


class StateRequest(Request, frozen=True, kw_only=True):
    """For operations that need no field: whose realm it is about."""

    realm_id: str | None = None


class RolesRequest(Request, frozen=True, kw_only=True):
    """Roles to be assigned to a user or client, or to be removed."""

    roles: list[str]
    realm_id: str | None = None


class Deleted(Response, frozen=True, kw_only=True):
    """Always true: it is gone."""

    deleted: bool


class Page(Response, Generic[T], frozen=True, kw_only=True):
    """One page of a list; `next_cursor` is opaque and null on the last page."""

    items: list[T]
    next_cursor: str | None = None


def given(value: T | msgspec.UnsetType) -> T | None:
    """A field of a merge patch that cannot be null; None where it was left out."""
    return None if value is msgspec.UNSET else value


def said(body: msgspec.Struct) -> dict[str, Any]:
    """The fields of a merge patch that are not left out, null among them; without the realm it is about."""
    fields = {name: getattr(body, name) for name in body.__struct_fields__ if name != "realm_id"}
    return {name: value for name, value in fields.items() if value is not msgspec.UNSET}


class Status(Response, frozen=True, kw_only=True):
    """Health answers."""

    status: str


class NotReady(Response, frozen=True, kw_only=True):
    """503 of /ready: which checks failed."""

    status: str
    checks: dict[str, str]


class Check(Response, frozen=True, kw_only=True, omit_defaults=True):
    """One check of /ready.

    Args:
        state: `ok`, `failing`, or `unknown` where a check before it failed.
        reason: Why it fails.
    """

    state: str
    reason: str | None = None


class CheckedReadiness(Response, frozen=True, kw_only=True):
    """/ready of the admin listener: every check of the worker that answers."""

    status: str
    checks: dict[str, Check]


class ServerInfo(Response, frozen=True, kw_only=True):
    """`GET /`."""

    name: str
    versions: list[str]
    openapi: str
