"""A certificate notices every altered byte, belongs to its files, and says what its signature proves."""

import base64
import json
import stat
import struct
import sys
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hydrapot.potential import load, save
from hydrapot.potential.errors import ConfigurationError
from hydrapot.validation import signing
from hydrapot.validation.canonical import canonical, digest, parse
from hydrapot.validation.certificate import AlteredError, file_hash, read_certificate, write_certificate
from hydrapot.validation.document import write_document
from hydrapot.validation.domain import Domain
from hydrapot.validation.metrics import Outcome
from hydrapot.validation.verification import PROVES, verify
from tests.engine_helpers import small_potential
from tests.results_helpers import make_document, run_cli, sound_outcomes

pytest.importorskip("cryptography", reason="extra `validation`")

# --- canonical form ---------------------------------------------------------------------------------------------------
TEXT = st.text(st.characters(exclude_categories=["Cs"]))
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=20,
)

#: RFC 8785, appendix B: bits of a float64 and the text that it has.
NUMBERS = {
    "0000000000000000": "0",
    "8000000000000000": "0",
    "0000000000000001": "5e-324",
    "7fefffffffffffff": "1.7976931348623157e+308",
    "4340000000000000": "9007199254740992",
    "4430000000000000": "295147905179352830000",
    "44b52d02c7e14af5": "9.999999999999997e+22",
    "44b52d02c7e14af6": "1e+23",
    "444b1ae4d6e2ef4e": "999999999999999700000",
    "444b1ae4d6e2ef50": "1e+21",
    "3eb0c6f7a0b5ed8c": "9.999999999999997e-7",
    "3eb0c6f7a0b5ed8d": "0.000001",
    "41b3de4355555553": "333333333.3333332",
    "becbf647612f3696": "-0.0000033333333333333333",
    "43143ff3c1cb0959": "1424953923781206.2",
}


@pytest.mark.parametrize(("bits", "text"), NUMBERS.items())
def test_numbers_are_written_as_rfc_8785_says(bits, text):
    assert canonical(struct.unpack(">d", bytes.fromhex(bits))[0]).decode() == text


def test_members_are_sorted_by_utf16_units_and_text_is_as_short_as_possible():
    # The example of RFC 8785, section 3.2.3: an astral character sorts before U+FB33 by its surrogate.
    value = {"\u20ac": 1, "\r": 2, "\ufb33": 3, "1": 4, "\U0001f600": 5, "\u0080": 6, "ö": 7}
    assert list(json.loads(canonical(value))) == ["\r", "1", "\u0080", "ö", "\u20ac", "\U0001f600", "\ufb33"]
    assert canonical("\u20ac$\u000f\nA'\"\\/") == '"\u20ac$\\u000f\\nA\'\\"\\\\/"'.encode()


@given(JSON)
def test_canonical_form_is_stable_under_a_round_trip(value):
    data = canonical(value)
    assert canonical(json.loads(data)) == data
    assert canonical(parse(data)) == data
    # Numbers of JSON are float64, whether or not their text has a point.
    assert json.loads(data, parse_int=float) == json.loads(json.dumps(value), parse_int=float)


@given(JSON)
def test_order_of_members_does_not_matter(value):
    turned = json.loads(json.dumps(value), object_pairs_hook=lambda pairs: dict(reversed(pairs)))
    assert digest(turned) == digest(value)


@pytest.mark.parametrize(
    "value",
    [float("nan"), float("inf"), 2**53 + 1, 10**400, {1: 2}, object(), "\ud800", b"x", np.float32(1)],
    ids=lambda value: ascii(value)[:20],
)
def test_what_has_no_canonical_form_is_refused(value):
    with pytest.raises(ConfigurationError):
        canonical([value])


@pytest.mark.parametrize(
    "data",
    [b' {"a":1}', b'{"a": 1}', b'{"b":1,"a":2}', b'{"a":1,"a":1}', b"1.0", b"1e-07", b'"\\u0041"', b"NaN", b"\xff", b"{",
     b"[" * 100_000, b"-0", b"1" * 5000],
    ids=lambda data: repr(data[:12]),
)  # fmt: skip
def test_anything_but_the_canonical_form_is_refused(data):
    with pytest.raises(ConfigurationError):
        parse(data)


# --- certificates -----------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def key(tmp_path_factory):
    path = tmp_path_factory.mktemp("keys") / "signing.pem"
    signing.make_key(path)
    return path


@pytest.fixture
def written(tmp_path, key):
    """Results, and a signed certificate of them."""
    document = make_document(domain=Domain(name="oxides", ensemble="npt", pressure=(0, 5), temperature=(100, 300)))
    write_document(document, tmp_path / "results.json")
    artifact = tmp_path / "exported.pt2"
    artifact.write_bytes(b"network")
    write_certificate(
        document,
        tmp_path / "certificate.json",
        results=tmp_path / "results.json",
        artifacts={"lammps": artifact},
        key=key,
        created="2026-01-02T03:04:06+00:00",
    )
    return tmp_path


def test_a_certificate_holds_and_names_its_signer(written, key):
    found = read_certificate(written / "certificate.json")
    assert found.signer == signing.read_fingerprint(f"{key}.pub")
    assert found.statement["sha256"]["results"] == file_hash(written / "results.json")
    assert found.statement["sha256"]["subject"] == "ab" * 32
    assert found.statement["created"] == "2026-01-02T03:04:06+00:00"


def test_every_altered_byte_is_noticed(written):
    path = written / "certificate.json"
    data = path.read_bytes()
    assert read_certificate(path)
    rng = np.random.default_rng(0)
    # Every tenth byte, with a changed bit, removed, doubled, or made white space.
    for place in range(0, len(data), 10):
        at = data[place : place + 1]
        kind = rng.integers(4)
        changed = (bytes([at[0] ^ (1 << rng.integers(8))]), b"", at + at, b" ")[kind]
        if changed == at:
            continue
        path.write_bytes(data[:place] + changed + data[place + 1 :])
        with pytest.raises(AlteredError):
            read_certificate(path)


@pytest.mark.parametrize("tail", [b"\n", b" ", b"\x00", b"{}"])
def test_appended_bytes_are_noticed(written, tail):
    path = written / "certificate.json"
    path.write_bytes(path.read_bytes() + tail)
    with pytest.raises(AlteredError):
        read_certificate(path)


def rewritten(path, change):
    """A certificate changed by somebody who knows the form, and computes the digest anew."""
    document = json.loads(path.read_bytes())
    change(document)
    document["digest"] = digest(document["statement"])
    path.write_bytes(canonical(document) + b"\n")


def fail_to_pass(document):
    document["statement"]["verdict"] = "FAIL"


def wider(document):
    document["statement"]["envelope"]["temperature_K"] = [0, 5000]


def another_key(document):
    public = bytes(32)
    document["signature"]["public_key"] = base64.b64encode(public).decode()
    document["signature"]["fingerprint"] = signing.fingerprint(public)


def other_fingerprint(document):
    document["signature"]["fingerprint"] = "00" * 32


def shorter_signature(document):
    document["signature"]["value"] = document["signature"]["value"][:-8]


def not_base64(document):
    document["signature"]["value"] = "*" * 88


def none_algorithm(document):
    document["signature"]["algorithm"] = "none"


def lacks_key(document):
    del document["signature"]["public_key"]


def other_schema(document):
    document["schema_version"] = 2


def more_members(document):
    document["comment"] = "trust me"


def list_for_a_signature(document):
    document["signature"] = []


@pytest.mark.parametrize(
    "change",
    [fail_to_pass, wider, another_key, other_fingerprint, shorter_signature, not_base64, none_algorithm, lacks_key,
     other_schema, more_members, list_for_a_signature],
)  # fmt: skip
def test_changes_by_somebody_who_knows_the_form_are_noticed(written, change):
    rewritten(written / "certificate.json", change)
    with pytest.raises(AlteredError):
        read_certificate(written / "certificate.json")


def test_a_removed_signature_is_not_taken_for_a_signed_certificate(written, key):
    rewritten(written / "certificate.json", lambda document: document.update(signature=None))
    assert read_certificate(written / "certificate.json").signer is None
    found = verify(written / "certificate.json", public_key=f"{key}.pub")
    assert not found.trusted
    assert any("not signed" in problem for problem in found.problems)


def test_a_certificate_without_key_says_so_and_needs_no_cryptography(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "cryptography", None)
    monkeypatch.setitem(sys.modules, "cryptography.hazmat.primitives", None)
    write_certificate(make_document(), tmp_path / "certificate.json")
    found = read_certificate(tmp_path / "certificate.json")
    assert found.signer is None
    assert json.loads((tmp_path / "certificate.json").read_bytes())["signature"] is None
    with pytest.raises(ConfigurationError, match="pip install"):
        write_certificate(make_document(), tmp_path / "signed.json", key=tmp_path / "key")
    assert not (tmp_path / "signed.json").exists()


def test_the_same_results_give_the_same_certificate(tmp_path, key):
    for name in ("a", "b"):
        write_certificate(make_document(), tmp_path / name, key=key, created="2026-01-01T00:00:00+00:00")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def envelope_of(tmp_path, outcomes, domain):
    write_certificate(make_document(outcomes, domain=domain), tmp_path / "certificate.json")
    return read_certificate(tmp_path / "certificate.json").statement["envelope"]


def test_the_envelope_holds_only_what_passed(tmp_path):
    domain = Domain(ensemble="nve", temperature=(50, 400), pressure=(0, 3), elements=("Mg",))
    outcomes = sound_outcomes()
    full = envelope_of(tmp_path, outcomes, domain)
    assert full["ensembles"] == ["nve", "nvt", "npt"]
    assert (full["temperature_K"], full["pressure_GPa"], full["elements"]) == ([50, 400], [0, 3], ["Mg"])
    outcomes["md"] = Outcome(outcomes["md"].metrics[:1])
    without_npt = envelope_of(tmp_path, outcomes, domain)
    assert (without_npt["ensembles"], without_npt["pressure_GPa"]) == (["nve", "nvt"], None)
    del outcomes["md"]
    static = envelope_of(tmp_path, outcomes, domain)
    assert static["temperature_K"] is static["timestep_fs"] is static["duration_ns"] is None
    assert {entry["use"] for entry in static["uses"]} >= {"phonons", "energies"}
    metric = outcomes["contract"].metrics[0]
    outcomes["contract"] = Outcome([replace(metric, value=5.0)])
    nothing = envelope_of(tmp_path, outcomes, domain)
    assert nothing["uses"] == nothing["elements"] == nothing["precisions"] == []


# --- keys -------------------------------------------------------------------------------------------------------------
def test_a_key_is_private_and_never_replaced(tmp_path):
    path = tmp_path / "key"
    fingerprint = signing.make_key(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert signing.read_fingerprint(f"{path}.pub") == signing.read_fingerprint(fingerprint.upper()) == fingerprint
    before = path.read_bytes()
    with pytest.raises(ConfigurationError, match="exists"):
        signing.make_key(path)
    assert path.read_bytes() == before


def test_what_is_no_ed25519_key_is_refused_in_one_line(tmp_path):
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519

    pem, pkcs8 = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    files = {
        "text": b"not a key",
        "curve": ec.generate_private_key(ec.SECP256R1()).private_bytes(pem, pkcs8, serialization.NoEncryption()),
        "encrypted": ed25519.Ed25519PrivateKey.generate().private_bytes(
            pem, pkcs8, serialization.BestAvailableEncryption(b"word")
        ),
    }
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(ConfigurationError):
            signing.sign(b"x", tmp_path / name)
        with pytest.raises(ConfigurationError):
            signing.read_fingerprint(str(tmp_path / name))


def test_a_signature_of_other_words_is_none_of_a_certificate(key):
    from cryptography.hazmat.primitives import serialization

    private = serialization.load_pem_private_key(key.read_bytes(), None)
    block = signing.sign(b"statement", key)
    assert signing.verify(b"statement", block) == block["fingerprint"]
    block["value"] = base64.b64encode(private.sign(b"statement")).decode()  # without the context in front
    with pytest.raises(signing.SignatureError):
        signing.verify(b"statement", block)


# --- the command ------------------------------------------------------------------------------------------------------
@pytest.fixture
def cli(capsys):
    return partial(run_cli, capsys)


def test_exit_codes_tell_valid_from_altered_and_from_not_pinned(written, key, cli):
    certificate, results = written / "certificate.json", written / "results.json"
    artifact = written / "exported.pt2"
    code, out, _ = cli(
        "verify", certificate, "--results", results, "--artifact", artifact, "--public-key", f"{key}.pub"
    )
    assert code == 0
    assert "VALID" in out
    assert all(line in out for line in PROVES)
    assert cli("verify", certificate)[0] == 3
    assert cli("verify", certificate, "--public-key", "00" * 32)[0] == 1
    for path, option in ((results, "--results"), (artifact, "--artifact")):
        path.write_bytes(path.read_bytes() + b" ")
        code, out, _ = cli("verify", certificate, option, path, "--public-key", f"{key}.pub")
        assert code == 1
        assert "NOT VALID" in out
    assert cli("verify", written / "missing.json")[0] == 2
    certificate.write_bytes(certificate.read_bytes().replace(b"PASS", b"FAIL", 1))
    assert cli("verify", certificate, "--public-key", f"{key}.pub")[0] == 1


def test_an_unsigned_certificate_is_not_valid_only_unaltered(tmp_path, cli):
    write_certificate(make_document(), tmp_path / "certificate.json")
    code, out, _ = cli("verify", tmp_path / "certificate.json")
    assert code == 3
    assert "there is none" in out


def test_a_certificate_belongs_to_one_checkpoint(tmp_path, key, cli):
    ours, other = tmp_path / "ours.safetensors", tmp_path / "other.safetensors"
    save(small_potential(), ours)
    save(small_potential(largest_force=0.4), other)
    document = make_document()
    subject = document.subject.model_copy(update={"sha256": load(ours).info.content_hash})
    write_certificate(document.model_copy(update={"subject": subject}), tmp_path / "c.json", key=key)
    arguments = ("verify", tmp_path / "c.json", "--public-key", f"{key}.pub", "--model")
    assert cli(*arguments, ours)[0] == 0
    assert cli(*arguments, other)[0] == 1
    data = bytearray(ours.read_bytes())
    data[-3] ^= 1
    ours.write_bytes(data)
    code, out, _ = cli(*arguments, ours)
    assert code == 1
    assert "altered" in out
    assert cli(*arguments, tmp_path / "missing.safetensors")[0] == 2


def test_the_key_verb_makes_a_pair_and_prints_its_fingerprint(tmp_path, cli):
    code, out, _ = cli("key", tmp_path / "mine")
    assert code == 0
    assert signing.read_fingerprint(str(tmp_path / "mine.pub")) in out
    assert cli("key", tmp_path / "mine")[0] == 1
