"""Certificates: a certificate authority and a server certificate of our own, for a provider behind TLS.

Made with the `cryptography` package where it is installed, else with the `openssl` command, else not at all.
"""

import datetime as dt
import importlib.util
import shutil
import subprocess
from collections.abc import Callable
from ipaddress import ip_address
from pathlib import Path
from typing import Final, NamedTuple

_DAYS: Final = 2
_NAMES: Final = "subjectAltName=DNS:localhost,IP:127.0.0.1"


class Certificates(NamedTuple):
    """Paths of PEM files: what the client trusts, what the server shows, and its key."""

    authority: Path
    server: Path
    server_key: Path


def make_certificates(directory: Path) -> Certificates | None:
    """Make them in `directory`; None if nothing here can."""
    made = Certificates(directory / "ca.pem", directory / "server.pem", directory / "server.key")
    maker = _maker()
    if maker is None:
        return None
    maker(made, directory)
    return made


def _maker() -> Callable[[Certificates, Path], None] | None:
    if importlib.util.find_spec("cryptography") is not None:
        return _by_cryptography
    return _by_openssl if shutil.which("openssl") else None


def _by_openssl(made: Certificates, directory: Path) -> None:
    authority_key, request, extensions = directory / "ca.key", directory / "server.csr", directory / "extensions"
    extensions.write_text(f"{_NAMES}\nbasicConstraints=CA:FALSE\n")
    new_key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    days = ("-days", str(_DAYS))
    authority = ("-subj", "/CN=bench authority", "-addext", "keyUsage=critical,keyCertSign,cRLSign")
    _openssl("req", "-x509", *new_key, *days, *authority, "-keyout", authority_key, "-out", made.authority)
    _openssl("req", *new_key, "-subj", "/CN=localhost", "-keyout", made.server_key, "-out", request)
    signing = ("-CA", made.authority, "-CAkey", authority_key, "-CAcreateserial", "-extfile", extensions)
    _openssl("x509", "-req", "-in", request, *signing, *days, "-out", made.server)


def _openssl(*arguments: str | Path) -> None:
    subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True)


def _by_cryptography(made: Certificates, _directory: Path) -> None:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    def name(text: str) -> x509.Name:
        return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])

    now = dt.datetime.now(dt.UTC)

    def certificate(subject: str, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
        builder = x509.CertificateBuilder().subject_name(name(subject)).issuer_name(name("bench authority"))
        builder = builder.public_key(key.public_key()).serial_number(x509.random_serial_number())
        lifetime = dt.timedelta(days=_DAYS)
        return builder.not_valid_before(now - lifetime).not_valid_after(now + lifetime)

    authority_key, server_key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    usage = x509.KeyUsage(*[position in {5, 6} for position in range(9)])  # key_cert_sign, crl_sign
    authority = (
        certificate("bench authority", authority_key)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(usage, critical=True)
        .sign(authority_key, hashes.SHA256())
    )
    names = x509.SubjectAlternativeName([x509.DNSName("localhost"), x509.IPAddress(ip_address("127.0.0.1"))])
    server = certificate("localhost", server_key).add_extension(names, critical=False)
    made.authority.write_bytes(authority.public_bytes(serialization.Encoding.PEM))
    signed = server.sign(authority_key, hashes.SHA256())
    made.server.write_bytes(signed.public_bytes(serialization.Encoding.PEM))
    made.server_key.write_bytes(
        server_key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
