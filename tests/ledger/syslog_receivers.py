"""Real syslog receivers on real sockets, which can be killed with what they have not read, and come back."""

from __future__ import annotations

import contextlib
import datetime
import ipaddress
import re
import socket
import ssl
import struct
import threading
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

MESSAGE = re.compile(
    rb"<(\d{1,3})>1 (\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z) ([\x21-\x7e]{1,255}) ([\x21-\x7e]{1,48}) - "
    rb"([\x21-\x7e]{1,32}) ((?:\[[^\]]+\])+) (.*)",
    re.DOTALL,
)
"""RFC 5424: PRI, VERSION, TIMESTAMP, HOSTNAME, APP-NAME, PROCID, MSGID, STRUCTURED-DATA, MSG."""


class StreamReceiver:
    """TCP or TLS with octet counting. `messages` holds whole messages in the order in which they came."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self.tls = tls
        self.messages: list[bytes] = []
        self.port = 0
        self.reading = threading.Event()
        self.reading.set()
        self._listener: socket.socket | None = None
        self._holder: socket.socket | None = None
        self._connections: list[socket.socket] = []
        self._threads: list[threading.Thread] = []

    def start(self) -> None:
        listener = self._bound()
        self.port = listener.getsockname()[1]
        listener.listen(8)
        if self._holder is not None:
            self._holder.close()
            self._holder = None
        self._listener = listener
        self._spawn(self._accept, listener)

    def kill(self) -> None:
        """End as a killed process does: what it has received and not read is lost, its peer gets a reset."""
        if self._listener is not None:
            with contextlib.suppress(OSError):
                self._listener.shutdown(socket.SHUT_RDWR)
            self._listener.close()
            self._listener = None
            self._holder = self._bound()  # nobody else gets its port meanwhile; who connects to it is refused
        for connection in self._connections:
            with contextlib.suppress(OSError):
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                socket.socket.shutdown(connection, socket.SHUT_RDWR)
            with contextlib.suppress(OSError):
                connection.close()
        self._connections.clear()
        self.reading.set()
        for thread in self._threads:
            thread.join(10)
        self._threads.clear()

    def _bound(self) -> socket.socket:
        bound = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(("127.0.0.1", self.port))
        return bound

    def _spawn(self, target: object, *arguments: object) -> None:
        thread = threading.Thread(target=target, args=arguments, daemon=True)  # type: ignore[arg-type]
        self._threads.append(thread)
        thread.start()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                connection, _ = listener.accept()
                if self.tls is not None:
                    connection.settimeout(10)
                    connection = self.tls.wrap_socket(connection, server_side=True)
                    connection.settimeout(None)
            except ssl.SSLError:
                continue
            except OSError:
                return
            self._connections.append(connection)
            self._spawn(self._read, connection)

    def _read(self, connection: socket.socket) -> None:
        data = b""
        while True:
            self.reading.wait()
            try:
                piece = connection.recv(4096)
            except OSError:
                return
            if not piece:
                return
            data += piece
            while (space := data.find(b" ")) > 0:
                length = int(data[:space])
                if len(data) < space + 1 + length:
                    break
                self.messages.append(data[space + 1 : space + 1 + length])
                data = data[space + 1 + length :]


class DatagramReceiver:
    """A Unix datagram socket, or UDP."""

    def __init__(self, path: Path | None = None) -> None:
        self.path = path
        self.port = 0
        self.messages: list[bytes] = []
        self._socket: socket.socket | None = None
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        if self.path is not None:
            self.path.unlink(missing_ok=True)
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            self._socket.bind(str(self.path))
        else:
            self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
            self._socket.bind(("127.0.0.1", self.port))
            self.port = self._socket.getsockname()[1]
        self._socket.settimeout(0.05)
        self._thread = threading.Thread(target=self._read, args=(self._socket,), daemon=True)
        self._thread.start()

    def kill(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        if self._thread is not None:
            self._thread.join(10)

    def _read(self, receiver: socket.socket) -> None:
        while True:
            try:
                self.messages.append(receiver.recv(1 << 17))
            except TimeoutError:
                continue
            except OSError:
                return


def certificates(folder: Path) -> tuple[Path, Path, Path]:
    """A CA and a certificate of it for 127.0.0.1 and `receiver.test`: paths of CA, certificate and key."""
    now = datetime.datetime.now(datetime.UTC)
    ca_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    ca_name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test CA")])

    def begin(subject: x509.Name, public: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(ca_name)
            .public_key(public)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=1))
            .not_valid_after(now + datetime.timedelta(days=30))
        )

    ca_id = x509.SubjectKeyIdentifier.from_public_key(ca_key.public_key())
    ca = (
        begin(ca_name, ca_key.public_key())
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(ca_id, critical=False)
        .add_extension(
            x509.KeyUsage(False, False, False, False, False, True, True, False, False), critical=True
        )
        .sign(ca_key, hashes.SHA256())
    )
    names = [x509.IPAddress(ipaddress.ip_address("127.0.0.1")), x509.DNSName("receiver.test")]
    own = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "receiver.test")])
    issuer = x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(ca_id)
    certificate = (
        begin(own, key.public_key())
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(issuer, critical=False)
        .sign(ca_key, hashes.SHA256())
    )
    paths = folder / "ca.pem", folder / "cert.pem", folder / "key.pem"
    paths[0].write_bytes(ca.public_bytes(serialization.Encoding.PEM))
    paths[1].write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    paths[2].write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return paths
