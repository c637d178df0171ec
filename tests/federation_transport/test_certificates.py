"""The authority of a local federation: files for their owner only, kept while they are good."""

import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from aifn_local.federation import certificates
from aifn_local.federation.certificates import Authority
from cryptography import x509
from cryptography.x509.oid import NameOID


def test_a_certificate_names_its_principal_and_is_signed_by_the_authority(tmp_path: Path) -> None:
    authority = Authority(tmp_path / "ca")
    path = authority.vouch("bsc-aif.push")
    made = x509.load_pem_x509_certificate(path.read_bytes())
    root = x509.load_pem_x509_certificate(authority.certificate.read_bytes())
    assert [name.value for name in made.subject.get_attributes_for_oid(NameOID.COMMON_NAME)] == ["bsc-aif.push"]
    made.verify_directly_issued_by(root)
    assert path.read_text().startswith("-----BEGIN PRIVATE KEY-----"), "Kafka wants the key first, as PKCS#8"


def test_what_is_secret_is_for_its_owner_only(tmp_path: Path) -> None:
    authority = Authority(tmp_path / "ca")
    authority.vouch("bsc-aif.push")
    assert {stat.S_IMODE(path.stat().st_mode) for path in authority.folder.iterdir()} == {0o600}
    assert stat.S_IMODE(authority.folder.stat().st_mode) == 0o700


def test_a_good_certificate_is_kept_and_one_about_to_end_is_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority = Authority(tmp_path / "ca")
    first = authority.vouch("relay-a", server=True).read_bytes()
    assert authority.vouch("relay-a", server=True).read_bytes() == first
    (authority.folder / "relay-a.pem").write_bytes(first[:200])
    assert authority.vouch("relay-a", server=True).read_bytes() != first, "half a file is no certificate"
    monkeypatch.setattr(certificates, "_VALID", timedelta(days=3))
    ending = authority.vouch("bsc-aif.pull").read_bytes()
    assert x509.load_pem_x509_certificate(ending).not_valid_after_utc < datetime.now(UTC) + timedelta(days=4)
    assert authority.vouch("bsc-aif.pull").read_bytes() != ending


def test_a_lost_authority_takes_all_it_vouched_for_along(tmp_path: Path) -> None:
    authority = Authority(tmp_path / "ca")
    before = authority.vouch("relay-a", server=True).read_bytes()
    authority.certificate.unlink()
    after = x509.load_pem_x509_certificate(authority.vouch("relay-a", server=True).read_bytes())
    root = x509.load_pem_x509_certificate(authority.certificate.read_bytes())
    after.verify_directly_issued_by(root)
    assert after != x509.load_pem_x509_certificate(before)
