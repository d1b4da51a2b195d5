"""`/v1/auth/users`: the HTTP face of people."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import msgspec

from qimem.audit.schema import COUNTED, recorded
from qimem.authz.permissions import Permission
from qimem.errors import InvalidFields
from qimem.identity.new_user import NewUser
from qimem.identity.usernames import find_canonical_username
from qimem.identity.users import UserChanges, user_not_found
from qimem.kernel.secret import SecretText
from qimem.web.kit.endpoint import Call, Endpoint
from qimem.web.kit.pages import next_cursor, page_limit, position
from qimem.wire.common import Deleted, ListQuery, Page, RealmQuery, RolesRequest, StateRequest, given
from qimem.wire.factors import SecondFactorState
from qimem.wire.users import (
    CreateUserRequest,
    Grant,
    ListGrantsQuery,
    PasswordSet,
    RevokedGrants,
    RevokeGrantsRequest,
    SetPasswordRequest,
    UpdateUserRequest,
    User,
)


async def create_user(call: Call[CreateUserRequest, None]) -> User:
    """Add a user."""
    body = call.body
    new = NewUser(
        username=body.username,
        password=_secret(body.password),
        roles=body.roles,
        email=body.email,
        totp_secret=_secret(body.totp_secret),
        password_hash=_secret(body.password_hash),
    )
    return await call.services.users.create(call.context, new)


async def list_users(call: Call[None, ListQuery]) -> Page[User]:
    """The realm's users by name."""
    (after,) = position(call.query.cursor, (str,)) or (None,)
    if after is not None and find_canonical_username(after) != after:
        # Not every database can be asked for every text.
        raise InvalidFields({"/cursor": "not a cursor of this list"})
    items, last = await call.services.users.list(call.context, after, page_limit(call.query.limit))
    return Page(items=items, next_cursor=next_cursor(None if last is None else (last,)))


async def get_user(call: Call[None, RealmQuery]) -> User:
    """One user."""
    return await call.services.users.get(call.context, _path_user(call))


async def disable_user(call: Call[StateRequest, None]) -> User:
    """Let a user in no more, and none of their tokens."""
    return await call.services.users.set_enabled(call.context, _path_user(call), enabled=False)


async def enable_user(call: Call[StateRequest, None]) -> User:
    """Undo disable."""
    return await call.services.users.set_enabled(call.context, _path_user(call), enabled=True)


async def delete_user(call: Call[None, RealmQuery]) -> Deleted:
    """Remove a user for good."""
    return await call.services.users.delete(call.context, _path_user(call))


async def update_user(call: Call[UpdateUserRequest, None]) -> User:
    """Change a user's name or e-mail address."""
    body = call.body
    email = None if body.email is msgspec.UNSET else body.email
    changes = UserChanges(given(body.username), email, sets_email=body.email is not msgspec.UNSET)
    return await call.services.users.update(call.context, _path_user(call), changes, call.precondition)


async def assign_roles(call: Call[RolesRequest, None]) -> User:
    """Give a user roles."""
    return await call.services.users.assign_roles(call.context, _path_user(call), call.body.roles)


async def remove_roles(call: Call[RolesRequest, None]) -> User:
    """Take roles from a user."""
    return await call.services.users.remove_roles(call.context, _path_user(call), call.body.roles)


async def set_password(call: Call[SetPasswordRequest, None]) -> PasswordSet:
    """Replace a user's password; all that was signed in with the old one ends."""
    return await call.services.passwords.set(call.context, _path_user(call), SecretText(call.body.password))


async def disable_totp(call: Call[StateRequest, None]) -> SecondFactorState:
    """Take the second factor from a user who has lost it."""
    return await call.services.own_factor.disable_of(call.context, _path_user(call))


async def list_grants(call: Call[None, ListGrantsQuery]) -> Page[Grant]:
    """Where a user is signed in."""
    (after,) = position(call.query.cursor, (UUID,)) or (None,)
    limit = page_limit(call.query.limit)
    items, last = await call.services.grants_of_users.list(call.context, _path_user(call), after, limit)
    return Page(items=items, next_cursor=next_cursor(None if last is None else (last,)))


async def revoke_grants(call: Call[RevokeGrantsRequest, None]) -> RevokedGrants:
    """Sign a user out of one place, or everywhere."""
    return await call.services.grants_of_users.revoke(call.context, _path_user(call), call.body.grant_id)


def _path_user(call: Call[Any, Any]) -> UUID:
    user_id = call.path_uuid("user_id")
    if user_id is None:
        raise user_not_found(call.path["user_id"])
    return user_id


def _secret(text: str | None) -> SecretText | None:
    return None if text is None else SecretText(text)


ENDPOINTS = (
    Endpoint(
        method="POST",
        path="/v1/auth/users",
        name="users.create",
        audit=recorded("target"),
        handler=create_user,
        request=CreateUserRequest,
        response=User,
        permission=Permission.USERS_CREATE,
        idempotent=True,
        summary="Create a user",
        example={"username": "ada", "password": "a-long-enough-phrase", "roles": []},
    ),
    Endpoint(
        method="GET",
        path="/v1/auth/users",
        name="users.list",
        audit=COUNTED,
        handler=list_users,
        query=ListQuery,
        response=Page[User],
        permission=Permission.USERS_READ,
        summary="List users",
    ),
    Endpoint(
        method="GET",
        path="/v1/auth/users/{user_id}",
        name="users.get",
        audit=COUNTED,
        handler=get_user,
        query=RealmQuery,
        response=User,
        permission=Permission.USERS_READ,
        versioned=True,
        summary="Get a user",
    ),
    Endpoint(
        method="PATCH",
        path="/v1/auth/users/{user_id}",
        name="users.update",
        audit=recorded("target"),
        handler=update_user,
        request=UpdateUserRequest,
        response=User,
        permission=Permission.USERS_MANAGE,
        versioned=True,
        conflicts=True,
        summary="Update a user",
        example={"email": "ada@shop.example"},
    ),
    Endpoint(
        method="POST",
        path="/v1/auth/users/{user_id}/roles/assign",
        name="users.assign-roles",
        audit=recorded("target"),
        handler=assign_roles,
        request=RolesRequest,
        response=User,
        permission=Permission.USERS_MANAGE,
        summary="Assign roles to a user",
        example={"roles": ["cipher"]},
    ),
    Endpoint(
        method="POST",
        path="/v1/auth/users/{user_id}/roles/remove",
        name="users.remove-roles",
        audit=recorded("target"),
        handler=remove_roles,
        request=RolesRequest,
        response=User,
        permission=Permission.USERS_MANAGE,
        summary="Remove roles from a user",
        example={"roles": ["cipher"]},
    ),
    Endpoint(
        method="POST",
        path="/v1/auth/users/{user_id}/password",
        name="users.set-password",
        audit=recorded("target"),
        handler=set_password,
        request=SetPasswordRequest,
        response=PasswordSet,
        permission=Permission.USERS_MANAGE,
        summary="Set a user's password",
        example={"password": "a-long-enough-phrase"},
    ),
    Endpoint(
        method="POST",
        path="/v1/auth/users/{user_id}/disable",
        name="users.disable",
        audit=recorded("target"),
        handler=disable_user,
        request=StateRequest,
        response=User,
        permission=Permission.USERS_MANAGE,
        optional_body=True,
        conflicts=True,
        summary="Disable a user",
        example={},
    ),
    Endpoint(
        method="POST",
        path="/v1/auth/users/{user_id}/enable",
        name="users.enable",
        audit=recorded("target"),
        handler=enable_user,
        request=StateRequest,
        response=User,
        permission=Permission.USERS_MANAGE,
        optional_body=True,
        summary="Enable a user",
        example={},
    ),
    Endpoint(
        method="POST",
        path="/v1/auth/users/{user_id}/totp/disable",
        name="users.disable-totp",
        audit=recorded("target"),
        handler=disable_totp,
        request=StateRequest,
        response=SecondFactorState,
        permission=Permission.USERS_MANAGE,
        optional_body=True,
        conflicts=True,
        summary="Take a user's second factor away",
        example={},
    ),
    Endpoint(
        method="GET",
        path="/v1/auth/users/{user_id}/grants",
        name="users.list-grants",
        audit=COUNTED,
        handler=list_grants,
        query=ListGrantsQuery,
        response=Page[Grant],
        permission=Permission.USERS_READ,
        summary="List where a user is signed in",
    ),
    Endpoint(
        method="POST",
        path="/v1/auth/users/{user_id}/grants/revoke",
        name="users.revoke-grants",
        audit=recorded("target"),
        handler=revoke_grants,
        request=RevokeGrantsRequest,
        response=RevokedGrants,
        permission=Permission.USERS_MANAGE,
        optional_body=True,
        summary="Sign a user out",
        example={},
    ),
    Endpoint(
        method="DELETE",
        path="/v1/auth/users/{user_id}",
        name="users.delete",
        audit=recorded("target"),
        handler=delete_user,
        query=RealmQuery,
        response=Deleted,
        permission=Permission.USERS_MANAGE,
        conflicts=True,
        summary="Delete a user",
    ),
)
"""Every operation of this resource."""
