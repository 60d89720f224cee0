"""Signed artefacts: with a key only those are handed out that somebody with the key has made."""

import hashlib

import pytest
from pydantic import SecretStr

from tests.models import make_artefact
from tests.record_blocks import block_of
from worker.errors import ArtefactError
from worker.models import Artefact
from worker.models.artefact import check_signature, read_card
from worker.registry import RegistryView

KEY, OTHER = SecretStr("a key of some length"), SecretStr("another key, as long")


def view_of(data: bytes, version: str, key: SecretStr | None) -> RegistryView:
    view = RegistryView("default", key)
    view.apply(block_of([data], [f"artefact/default/{version}".encode()]))
    return view


def test_what_is_signed_is_what_is_served(artefact: Artefact) -> None:
    data, version = artefact.dump(KEY), artefact.card.version
    assert view_of(data, version, KEY).artefact(version) == data
    assert Artefact.load(data).card == artefact.card == read_card(data)
    assert view_of(data, version, None).artefact(version) == data, "who has no key asks for no signature"


def test_what_is_not_is_refused(artefact: Artefact) -> None:
    version = artefact.card.version
    with pytest.raises(ArtefactError, match="not signed"):
        view_of(artefact.dump(), version, KEY).artefact(version)
    with pytest.raises(ArtefactError, match="does not match"):
        view_of(artefact.dump(OTHER), version, KEY).artefact(version)


def test_a_signature_cannot_be_moved_to_another_artefact(artefact: Artefact) -> None:
    """Nor can what was signed be changed, with a digest that is right."""
    mine, theirs = artefact.dump(KEY), make_artefact(seed=1).dump(OTHER)
    signature, forged = signature_of(mine), signature_of(theirs)
    with pytest.raises(ArtefactError):
        check_signature(theirs.replace(forged, signature, 1), KEY)
    changed = bytearray(mine)
    changed[-1] ^= 1
    digest = mine[mine.index(b'digest\\": \\"') + 12 :][:64]
    blank = bytes(changed).replace(digest, b"0" * 64, 1).replace(signature, b"0" * 64, 1)
    right = bytes(changed).replace(digest, hashlib.sha256(blank).hexdigest().encode(), 1)
    read_card(right)  # its digest is right
    with pytest.raises(ArtefactError, match="does not match"):
        check_signature(right, KEY)


@pytest.mark.parametrize("signature", ["", "0" * 64, "x" * 64, "é" * 64])
def test_odd_signatures(artefact: Artefact, signature: str) -> None:
    data = artefact.dump(KEY)
    with pytest.raises(ArtefactError):
        check_signature(data.replace(signature_of(data), signature.encode(), 1), KEY)


def signature_of(data: bytes) -> bytes:
    begin = data.index(b'signature\\": \\"') + 15
    return data[begin : begin + 64]
