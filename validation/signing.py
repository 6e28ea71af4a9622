"""Ed25519 keys and signatures (RFC 8032), with the package ``cryptography`` of the extra ``validation``."""

import base64
import hashlib
import os
import re
from pathlib import Path
from typing import Any

from hydrapot.potential.errors import ConfigurationError

#: Goes before the canonical bytes, so that a signature of a certificate is a signature of nothing else.
CONTEXT = b"hydrapot certificate\n"
ALGORITHM = "Ed25519"


class SignatureError(ConfigurationError):
    """A signature that does not hold."""


def make_key(path: str | Path) -> str:
    """Make a private key (PEM, PKCS 8, not encrypted, readable by its owner only) and ``PATH.pub`` beside it.

    Returns
    -------
    The fingerprint of the public key.

    Raises
    ------
    ConfigurationError
        A file of either name exists: keys are never replaced. The package is not installed.
    """
    serialization, ed25519 = _cryptography()
    path = Path(path)
    public_path = path.with_name(f"{path.name}.pub")
    for existing in (path, public_path):
        if existing.exists():
            raise ConfigurationError(f"{existing} exists; a key is never replaced: choose another name")
    key = ed25519.Ed25519PrivateKey.generate()
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    public = key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    _write_new(path, private, mode=0o600)
    _write_new(public_path, public, mode=0o644)
    return fingerprint(_raw(key.public_key()))


def fingerprint(public_key: bytes) -> str:
    """SHA-256 of the 32 bytes of a public key, in hexadecimal."""
    return hashlib.sha256(public_key).hexdigest()


def sign(statement: bytes, key: str | Path) -> dict[str, str]:
    """The signature block of a statement, with the private key in a PEM file.

    Raises
    ------
    ConfigurationError
        The file holds no private Ed25519 key, or an encrypted one; the package is not installed.
    """
    serialization, ed25519 = _cryptography()
    path = Path(key)
    try:
        private = serialization.load_pem_private_key(path.read_bytes(), password=None)
    except (ValueError, TypeError, _unsupported()) as error:
        raise ConfigurationError(f"{path} holds no private key in PEM without password: {error}") from error
    if not isinstance(private, ed25519.Ed25519PrivateKey):
        raise ConfigurationError(f"{path} holds a key of another kind than Ed25519: make one with `hydrapot key`")
    public = _raw(private.public_key())
    return {
        "algorithm": ALGORITHM,
        "fingerprint": fingerprint(public),
        "public_key": base64.b64encode(public).decode(),
        "value": base64.b64encode(private.sign(CONTEXT + statement)).decode(),
    }


def verify(statement: bytes, block: Any) -> str:
    """Verify a signature block against a statement; the fingerprint of the key that it names.

    Raises
    ------
    SignatureError
        The block is malformed, names another algorithm, or does not belong to the statement.
    ConfigurationError
        The package is not installed.
    """
    _, ed25519 = _cryptography()
    from cryptography.exceptions import InvalidSignature

    if not isinstance(block, dict) or set(block) != {"algorithm", "fingerprint", "public_key", "value"}:
        raise SignatureError("the signature block is not complete")
    if block["algorithm"] != ALGORITHM:
        raise SignatureError(f"the signature is not {ALGORITHM}")
    public, value = _decoded(block["public_key"], 32), _decoded(block["value"], 64)
    if block["fingerprint"] != fingerprint(public):
        raise SignatureError("the fingerprint is not that of the key in the certificate")
    try:
        ed25519.Ed25519PublicKey.from_public_bytes(public).verify(value, CONTEXT + statement)
    except (InvalidSignature, ValueError) as error:
        raise SignatureError("the signature does not belong to this certificate: it was altered") from error
    return fingerprint(public)


def read_fingerprint(trusted: str) -> str:
    """The fingerprint of a trusted public key: given as 64 hexadecimal digits, or as a PEM file.

    Raises
    ------
    ConfigurationError
        Neither; or a key of another kind.
    """
    if re.fullmatch(r"[0-9a-fA-F]{64}", trusted):
        return trusted.lower()
    serialization, ed25519 = _cryptography()
    try:
        public = serialization.load_pem_public_key(Path(trusted).read_bytes())
    except (ValueError, _unsupported()) as error:
        raise ConfigurationError(f"{trusted} holds no public key in PEM") from error
    if not isinstance(public, ed25519.Ed25519PublicKey):
        raise ConfigurationError(f"{trusted} holds a key of another kind than {ALGORITHM}")
    return fingerprint(_raw(public))


def _cryptography() -> tuple[Any, Any]:
    try:
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric import ed25519
    except ImportError as error:
        raise ConfigurationError(
            "signatures need the package cryptography: pip install 'hydrapot[validation]'"
        ) from error
    return serialization, ed25519


def _unsupported() -> type[Exception]:
    from cryptography.exceptions import UnsupportedAlgorithm

    return UnsupportedAlgorithm


def _raw(public_key: Any) -> bytes:
    return bytes(public_key.public_bytes_raw())


def _decoded(text: Any, length: int) -> bytes:
    """Base64 that decodes to `length` bytes and is written in the one way that encoding them gives."""
    try:
        data = base64.b64decode(text, validate=True)
    except (ValueError, TypeError) as error:
        raise SignatureError("key or signature is not base64") from error
    if len(data) != length or base64.b64encode(data).decode() != text:
        raise SignatureError("key or signature is not what its length and encoding should be")
    return data


def _write_new(path: Path, data: bytes, *, mode: int) -> None:
    # The mode is set on creation: there is no moment at which others could read a private key.
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:  # noqa: PTH123 - of a descriptor
        file.write(data)
