"""Certificates of a federation on one machine: an authority, and a key with a certificate for each name it vouches for.

Files are PEM as Kafka reads them: the private key (PKCS#8) first, then the certificate. Names of principals carry a dot
(`bsc-aif.push`), so that no member's id can be one.
"""

import ipaddress
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from aifn_local.errors import StackError, explain_os_error
from aifn_local.home import make_folder

_VALID = timedelta(days=365)
_EARLIER = timedelta(minutes=5)  # clocks of a federation differ by a little


class Authority:
    """Vouches for names. Its own key stays in its folder, readable by its owner only."""

    def __init__(self, folder: Path) -> None:
        """`folder`: of this authority alone; made at the first certificate."""
        self.folder = folder
        self.certificate = folder / "authority.pem"
        self._key = folder / "authority.key.pem"

    def path(self, name: str) -> Path:
        """Where the file for this name lies; it need not be there yet."""
        return self.folder / f"{name}.pem"

    def vouch(self, name: str, *, server: bool = False) -> Path:
        """Have a file with a key and a certificate for this name; one that is there and valid is kept.

        Args:
            name: the subject's common name: the principal at the brokers.
            server: it serves on the loopback, and may also be a client (of its own controller).
        """
        path = self.path(name)
        self._begin()
        if _still_good(path):
            return path
        key = ec.generate_private_key(ec.SECP256R1())
        usages = [ExtendedKeyUsageOID.CLIENT_AUTH, *([ExtendedKeyUsageOID.SERVER_AUTH] if server else [])]
        builder = _certificate(name, self._issuer().subject, key).add_extension(
            x509.ExtendedKeyUsage(usages), critical=False
        )
        builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        if server:
            here = [x509.DNSName("localhost"), x509.DNSName(name), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
            builder = builder.add_extension(x509.SubjectAlternativeName(here), critical=False)
        signed = builder.sign(self._private_key(), hashes.SHA256())
        _write(path, _pem(key) + signed.public_bytes(serialization.Encoding.PEM))
        return path

    def _begin(self) -> None:
        if _still_good(self.certificate) and self._key.exists():
            return
        make_folder(self.folder, mode=0o700)
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "aifn local federation")])
        builder = _certificate("aifn local federation", name, key)
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        for old in self.folder.glob("*.pem"):
            old.unlink()  # what the old authority vouched for is worth nothing now
        _write(self._key, _pem(key))
        _write(self.certificate, builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))

    def _issuer(self) -> x509.Certificate:
        return x509.load_pem_x509_certificate(self.certificate.read_bytes())

    def _private_key(self) -> ec.EllipticCurvePrivateKey:
        key = serialization.load_pem_private_key(self._key.read_bytes(), password=None)
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise StackError(f"{self._key} holds no key of ours: remove the folder {self.folder}")
        return key


def _certificate(name: str, issuer: x509.Name, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _EARLIER)
        .not_valid_after(now + _VALID)
    )


def _still_good(path: Path) -> bool:
    """Whether there is a certificate in the file that will do for another week."""
    try:
        found = x509.load_pem_x509_certificates(path.read_bytes())
    except (FileNotFoundError, ValueError):
        return False
    return found[0].not_valid_after_utc > datetime.now(UTC) + timedelta(days=7)


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _write(path: Path, content: bytes) -> None:
    """Replace a file in one step, for its owner's eyes only."""
    fresh = path.with_name(f".{path.name}.new")
    try:
        fresh.unlink(missing_ok=True)
        with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as handle:
            handle.write(content)
        fresh.replace(path)
    except OSError as error:
        raise explain_os_error(error, doing="writing a certificate", path=path) from error
