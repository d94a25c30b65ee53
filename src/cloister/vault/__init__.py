"""Sealed files, keys and unlocking, the object store.

A plain library: knows nothing of policy, users, sockets, rows or models.
"""

from cloister.vault.format import CHUNK, HEADER, TAG, object_context
from cloister.vault.keys import Vault
from cloister.vault.keystore import KeyStore
from cloister.vault.manifest import (
    MANIFEST_NAME,
    FileRecord,
    InputRef,
    Manifest,
    parse_manifest,
    read_manifest,
    sign_manifest,
    verify_manifest,
    write_manifest,
)
from cloister.vault.objects import ObjectReader, ObjectWriter
from cloister.vault.reader import PlainReader, Reader, SealedReader
from cloister.vault.slots import ArgonParams, PassphraseSlot, UnlockSlot
from cloister.vault.store import ObjectStore, StoredVersion
from cloister.vault.writer import FileSeal, PlainWriter, SealedWriter, Writer

__all__ = [
    "CHUNK",
    "HEADER",
    "MANIFEST_NAME",
    "TAG",
    "ArgonParams",
    "FileRecord",
    "FileSeal",
    "InputRef",
    "KeyStore",
    "Manifest",
    "ObjectReader",
    "ObjectStore",
    "ObjectWriter",
    "PassphraseSlot",
    "PlainReader",
    "PlainWriter",
    "Reader",
    "SealedReader",
    "SealedWriter",
    "StoredVersion",
    "UnlockSlot",
    "Vault",
    "Writer",
    "object_context",
    "parse_manifest",
    "read_manifest",
    "sign_manifest",
    "verify_manifest",
    "write_manifest",
]
