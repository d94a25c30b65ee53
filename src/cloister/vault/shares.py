"""The unlock slot of several people: a secret in SLIP-39 shares, any `threshold` of `count` of which open it.

Shares are words for paper (github.com/satoshilabs/slips, slip-0039). Knows how they are made and put
together; who holds them and how they arrive is not known here.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import ClassVar, NamedTuple

import msgspec
from shamir_mnemonic import MnemonicError, Share, generate_mnemonics
from shamir_mnemonic.shamir import ShareGroup, recover_ems
from shamir_mnemonic.wordlist import WORDLIST

from cloister.errors import Conflict, InvalidInput, Unauthenticated
from cloister.vault.canonical import canonical_json
from cloister.vault.memory import wipe_bytes
from cloister.vault.slots import damaged_slot, parse_document, unhex, unwrap_root, wrap_root
from cloister.vault.wrapping import UnwrapError

MAX_SHARES = 16
WORDS = 33
"""Words of a share of 32 bytes."""

_SECRET_BYTES = 32
_MAX_TEXT = 1024
_KNOWN = frozenset(WORDLIST)


class SharesFacts(NamedTuple):
    """What a slot says of its shares: which set they are of, how many open it, how many were made."""

    identifier: int
    threshold: int
    made: int


class _Document(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    identifier: int
    threshold: int
    count: int
    salt: str
    wrapped: str


class SharesSlot:
    """A random secret, kept nowhere but in its shares, wraps the root key.

    Make one with `split` (and show `mnemonics` once), or with `joined` from shares that were given.
    """

    kind: ClassVar[str] = "shares"

    def __init__(self, shares: Sequence[Share], secret: bytes | None, facts: SharesFacts) -> None:
        self._shares = tuple(shares)
        self._secret = secret
        self.facts = facts
        self.mnemonics: tuple[str, ...] = ()

    @classmethod
    def split(cls, threshold: int, count: int) -> SharesSlot:
        """A fresh secret in `count` shares. Raises InvalidInput unless 2 ≤ threshold ≤ count ≤ 16."""
        if not 2 <= threshold <= count <= MAX_SHARES:
            raise InvalidInput(
                f"of at most {MAX_SHARES} shares, at least two open the vault and at most all",
                remedy="Ask for 2 of 3, for example.",
            )
        secret = secrets.token_bytes(_SECRET_BYTES)
        # The secret is random: stretching it would add nothing.
        words = generate_mnemonics(1, [(threshold, count)], secret, iteration_exponent=0)[0]
        identifier = Share.from_mnemonic(words[0]).identifier
        slot = cls((), secret, SharesFacts(identifier, threshold, count))
        slot.mnemonics = tuple(words)
        return slot

    @classmethod
    def joined(cls, mnemonics: Sequence[str]) -> SharesSlot:
        """The shares that were given, at least one. Raises InvalidInput, naming which one is no share."""
        shares = [parse_share(text, number) for number, text in enumerate(mnemonics, 1)]
        if not shares:
            raise InvalidInput("no share was given")
        if len({(share.identifier, share.index) for share in shares}) != len(shares):
            raise Conflict("the same share was given twice", remedy="Give another one.")
        first = shares[0]
        return cls(shares, None, SharesFacts(first.identifier, first.member_threshold, MAX_SHARES))

    def seal(self, root_key: bytes, vault_id: str) -> bytes:
        if self._secret is None:
            raise InvalidInput("shares that were given cannot make a slot", remedy="Make new ones.")
        salt, wrapped = wrap_root(self._secret, root_key, self.kind, vault_id)
        return canonical_json(msgspec.to_builtins(_Document(*self.facts, salt, wrapped)))

    def open(self, document: bytes, vault_id: str, where: str, slot_id: int) -> bytes:
        parsed = _parse(document, where, slot_id)
        salt, wrapped = unhex(parsed.salt, where, slot_id), unhex(parsed.wrapped, where, slot_id)
        secret = self._joined_secret(parsed)
        try:
            return unwrap_root(secret, salt, wrapped, self.kind, vault_id)
        except UnwrapError:
            raise Unauthenticated("these shares do not open this vault", remedy="Try others.") from None
        finally:
            wipe_bytes(secret)

    def reseal(self, document: bytes, root_key: bytes, vault_id: str, where: str, slot_id: int) -> bytes:
        parsed = _parse(document, where, slot_id)
        facts = SharesFacts(parsed.identifier, parsed.threshold, parsed.count)
        return SharesSlot((), self._joined_secret(parsed), facts).seal(root_key, vault_id)

    def _joined_secret(self, parsed: _Document) -> bytes:
        """What the shares were made from. Raises Unauthenticated."""
        if any(
            (share.identifier, share.member_threshold) != (parsed.identifier, parsed.threshold)
            for share in self._shares
        ):
            raise Unauthenticated("a share is of another set", remedy="Give shares of one set.")
        if len(self._shares) < parsed.threshold:
            raise Unauthenticated(
                f"{len(self._shares)} of {parsed.threshold} shares were given",
                remedy="Give the others too.",
                values={"given": len(self._shares), "needed": parsed.threshold},
            )
        group = ShareGroup()
        for share in self._shares[: parsed.threshold]:
            group.add(share)
        try:
            return bytes(recover_ems({0: group}).decrypt(b""))
        except (MnemonicError, ValueError):
            raise Unauthenticated("these shares do not open this vault", remedy="Try others.") from None

    @staticmethod
    def summary(document: bytes, where: str, slot_id: int) -> str:
        facts = shares_facts(document, where, slot_id)
        return f"SLIP-39, {facts.threshold} of {facts.made} shares, set {facts.identifier:05d}"


def shares_facts(document: bytes, where: str, slot_id: int) -> SharesFacts:
    """What a slot says of its shares. Raises Tampered."""
    parsed = _parse(document, where, slot_id)
    return SharesFacts(parsed.identifier, parsed.threshold, parsed.count)


def parse_share(text: str, number: int = 1) -> Share:
    """One share from its words. Raises InvalidInput that names share and word by number, and echoes none."""
    where = f"share {number}"
    words = text.split() if len(text) <= _MAX_TEXT else []
    if len(words) != WORDS:
        raise InvalidInput(f"a share has {WORDS} words, this one {len(words)}", where=where)
    for at, word in enumerate(words, 1):
        if word.lower() not in _KNOWN:
            raise InvalidInput(f"word {at} is not in the list of words", where=where, remedy="Look again.")
    try:
        share = Share.from_mnemonic(" ".join(words).lower())
    except (MnemonicError, ValueError):
        raise InvalidInput(
            "its checksum fails: a word is another one, or in another place",
            where=where,
            remedy="Look again.",
        ) from None
    plain = (share.group_index, share.group_threshold, share.group_count, share.iteration_exponent)
    if plain != (0, 1, 1, 0) or len(share.value) != _SECRET_BYTES:
        raise InvalidInput("a share, but none that Cloister made", where=where)
    return share


def _parse(document: bytes, where: str, slot_id: int) -> _Document:
    parsed = parse_document(document, _Document, where, slot_id)
    if not (0 <= parsed.identifier < 1 << 15 and 2 <= parsed.threshold <= parsed.count <= MAX_SHARES):
        raise damaged_slot(where, slot_id)
    return parsed
