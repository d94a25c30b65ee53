"""Who is what: roles from the system's groups, as the settings map them. Looked up, never told.

Knows accounts of the system and settings; not policies.
"""

from __future__ import annotations

import grp
import os
import pwd
from dataclasses import dataclass

from cloister.policy.settings import AccessSettings


@dataclass(frozen=True)
class Standing:
    """An account's roles, and the groups of the system that gave them."""

    account: str
    roles: frozenset[str]
    groups: tuple[str, ...] = ()


def standing(uid: int, access: AccessSettings, *, own_uid: int) -> Standing:
    """What the account `uid` is at this moment.

    Without roles in the settings the appliance belongs to the account that runs it (`own_uid`), which is
    `sole`; every other has no role. With roles that account is the gateway's, unless the settings name another
    one or its groups give it a role. An account or a group that the system does not know gives no role.
    """
    try:
        entry = pwd.getpwuid(uid)
    except KeyError:
        return Standing(f"uid:{uid}", frozenset({"sole"}) if _sole(uid, access, own_uid) else frozenset())
    if not access.roles:
        return Standing(entry.pw_name, frozenset({"sole"}) if uid == own_uid else frozenset())
    groups = set()
    for number in os.getgrouplist(entry.pw_name, entry.pw_gid):
        try:
            groups.add(grp.getgrgid(number).gr_name)
        except KeyError:
            continue
    given = {role: group for role, group in access.roles.items() if group in groups}
    roles: set[str] = set(given)
    if entry.pw_name == access.gateway_account:
        roles.add("gateway")
    elif access.gateway_account is None and uid == own_uid and not roles:
        roles.add("gateway")  # the gateway runs beside the authority, under its account
    return Standing(entry.pw_name, frozenset(roles), tuple(sorted(given.values())))


def _sole(uid: int, access: AccessSettings, own_uid: int) -> bool:
    return not access.roles and uid == own_uid
