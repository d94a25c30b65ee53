"""TLS 1.3 with the operator's certificate, and clients with certificates of their own."""

from __future__ import annotations

import ssl
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from gateway_stand_ins import Site, wait_for
from openai import OpenAI

pytestmark = pytest.mark.slow  # each starts gateways of its own


class Certificates:
    """An authority of certificates, and leaves of it, as files."""

    def __init__(self, folder: Path, name: str) -> None:
        self._folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self.root = self._write(name, self._make(self._subject, self._key.public_key(), ca=True))

    def leaf(self, name: str) -> tuple[str, str]:
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        path = self._folder / f"{name}.key"
        path.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        return self._write(name, self._make(subject, key.public_key(), ca=False)), str(path)

    def _make(self, subject: x509.Name, key: ec.EllipticCurvePublicKey, *, ca: bool) -> x509.Certificate:
        moment = datetime.now(UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._subject)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(moment - timedelta(hours=1))
            .not_valid_after(moment + timedelta(hours=1))
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
            .add_extension(
                x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False
            )
            .sign(self._key, hashes.SHA256())
        )

    def _write(self, name: str, certificate: x509.Certificate) -> str:
        path = self._folder / f"{name}.pem"
        path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        return str(path)


def _context(root: str) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=root)


def _ask(site: Site, context: ssl.SSLContext) -> str | None:
    with httpx.Client(verify=context) as http:
        client = OpenAI(base_url=site.gateway.url + "/v1", api_key=site.key, http_client=http, max_retries=0)
        answer = client.chat.completions.create(
            model="claims", messages=[{"role": "user", "content": "hello"}]
        )
        stream = client.chat.completions.create(
            model="claims", messages=[{"role": "user", "content": "hello"}], stream=True
        )
        assert "".join(c.choices[0].delta.content or "" for c in stream) == answer.choices[0].message.content
        return answer.choices[0].message.content


def _ready(site: Site, context: ssl.SSLContext) -> None:
    wait_for(lambda: httpx.get(site.gateway.url + "/healthz", verify=context).status_code == 200)


def test_tls_1_3_only(bare_site: Site, tmp_path: Path) -> None:
    site, made = bare_site, Certificates(tmp_path, "root")
    cert, key = made.leaf("gateway")
    site.gateway.start("--tls-cert", cert, "--tls-key", key)
    assert site.gateway.url.startswith("https://127.0.0.1:")
    context = _context(made.root)
    _ready(site, context)
    assert _ask(site, context) == "".join(site.engine.words)
    old = _context(made.root)
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    with pytest.raises(httpx.TransportError):
        httpx.get(site.gateway.url + "/healthz", verify=old)
    with pytest.raises(httpx.TransportError):
        httpx.get(site.gateway.url.replace("https", "http") + "/healthz")


def test_client_certificates(bare_site: Site, tmp_path: Path) -> None:
    site, made, others = bare_site, Certificates(tmp_path, "root"), Certificates(tmp_path, "other")
    cert, key = made.leaf("gateway")
    site.gateway.start("--tls-cert", cert, "--tls-key", key, "--client-ca", made.root)
    known = _context(made.root)
    known.load_cert_chain(*made.leaf("client"))
    _ready(site, known)
    assert _ask(site, known) == "".join(site.engine.words)
    stranger = _context(made.root)
    stranger.load_cert_chain(*others.leaf("stranger"))
    for context in (_context(made.root), stranger):
        with pytest.raises(httpx.TransportError):
            httpx.get(site.gateway.url + "/healthz", verify=context)
