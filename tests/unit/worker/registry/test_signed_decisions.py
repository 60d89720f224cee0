"""Decisions with a signing key: what is not signed by it, or is an old one, is not followed."""

import json
import random
from itertools import permutations
from typing import Any

import pytest
from pydantic import SecretStr

from tests.record_blocks import block_of
from worker.registry import Alias, AliasRecord, Decision, Registry, RegistryView, What
from worker.registry.view import signed
from worker.settings import ModelSettings, Settings

KEY, OTHER = SecretStr("a key of some length"), SecretStr("another key, as long")
Record = tuple[str, bytes | None, list[tuple[str, bytes]]]


def decided(
    view: RegistryView, changes: dict[Alias, str | None], what: What = "promoted", key: SecretStr | None = KEY
) -> list[Record]:
    """The records that such a decision writes; the view is told, as by whoever decides."""
    registry = Registry(Settings(model=ModelSettings(name="m", signing_key=key)))
    decision = Decision(what, next(iter(changes.values())), next(iter(changes)), changes, {})
    return [(k, v, signed(key, k, v)) for k, v in registry._decision_records(decision, view, "w", "y")]


def view_of(*records: Record, key: SecretStr | None = KEY) -> RegistryView:
    view = RegistryView("m", key)
    apply(view, *records)
    return view


def apply(view: RegistryView, *records: Record) -> None:
    headers = {i: record[2] for i, record in enumerate(records) if record[2]}
    view.apply(block_of([value for _, value, _ in records], [key.encode() for key, _, _ in records], headers))


def history(key: SecretStr | None = KEY) -> tuple[list[list[Record]], RegistryView]:
    """v1, then v2, then v3 in its shadow, then v3 in its place."""
    view = RegistryView("m", key)
    made = [
        decided(view, {"champion": "v1"}, key=key),
        decided(view, {"champion": "v2"}, key=key),
        decided(view, {"challenger": "v3"}, "challenger", key=key),
        decided(view, {"champion": "v3", "challenger": None}, key=key),
    ]
    return made, view


def of_kind(kind: str, records: list[Record]) -> list[Record]:
    return [record for record in records if record[0].startswith(kind)]


def test_what_is_decided_is_followed() -> None:
    made, decider = history()
    view = view_of(*(record for records in made for record in records))
    for each in (view, decider):
        assert (each.champion(), each.challenger(), each.predecessor()) == ("v3", None, "v2")
        assert [entry["version"] for entry in each.history()] == ["v1", "v2", "v3", "v3"]
    assert all(headers for records in made for _, value, headers in records if value is not None)


def test_in_whatever_order_it_comes() -> None:
    made, _ = history()
    records = [record for each in made for record in each]
    rng = random.Random(3)
    for _ in range(200):
        rng.shuffle(records)
        view = view_of(*records)
        assert (view.champion(), view.challenger()) == ("v3", None)


def test_an_alias_that_is_not_signed_is_not_followed() -> None:
    made, _ = history()
    view = view_of(*(record for records in made for record in records))
    forged = json.dumps({"version": "v1", "who": "w", "when": "t", "why": "y", "sequence": 99}).encode()
    audit = json.dumps({"version": "v1", "alias": "champion", "changes": {"champion": "v1"}}).encode()
    signature = of_kind("alias/m/champion", made[1])[0][2]
    for headers in ([], [("offnormal-signature", b"")], [("offnormal-signature", b"0" * 64)], signature):
        apply(
            view, ("alias/m/champion", forged, headers), ("audit/m/99", audit, headers), ("audit/m/1", audit, headers)
        )
    apply(view, ("alias/m/champion", None, []), ("audit/m/4", None, []))
    assert view.champion() == "v3" and len(view.history()) == 4
    assert view_of(("alias/m/champion", forged, []), ("audit/m/99", audit, [])).champion() is None


def test_an_alias_of_another_key_is_not_followed() -> None:
    made, _ = history(OTHER)
    assert view_of(*(record for records in made for record in records)).champion() is None


def test_an_old_alias_that_is_written_again_is_not_followed() -> None:
    made, _ = history()
    view = view_of(*(record for records in made for record in records))
    apply(view, *made[0], *made[1], *made[2])
    assert (view.champion(), view.challenger()) == ("v3", None)


@pytest.mark.parametrize("replayed", [0, 1])
def test_nor_after_compaction_has_taken_the_later_one_away(replayed: int) -> None:
    """The audit record tells."""
    made, _ = history()
    audits = [record for records in made for record in of_kind("audit", records)]
    old = of_kind("alias/m/champion", made[replayed])
    for records in permutations([*audits, *old]):
        assert view_of(*records).champion() == "v3"


def test_nor_where_the_audit_record_was_overwritten() -> None:
    """The alias tells."""
    made, _ = history()
    records = [record for each in made for record in each if record[0] != "audit/m/4"]
    assert view_of(*records, ("audit/m/4", b"{}", [])).champion() == "v3"


@pytest.mark.parametrize("as_key", ["alias/m/challenger", "alias/m/pin", "alias/n/champion"])
def test_a_signature_is_of_one_alias_of_one_model(as_key: str) -> None:
    made, _ = history()
    (record,) = of_kind("alias/m/champion", made[0])
    view = RegistryView(as_key.split("/")[1], KEY)
    apply(view, (as_key, record[1], record[2]))
    assert view.aliases == {}


def test_without_a_key_nothing_is_other_than_it_was() -> None:
    made, view = history(None)
    records = [record for each in made for record in each]
    assert all(not headers for _, _, headers in records)
    (alias,) = of_kind("alias/m/champion", made[0])
    assert set(json.loads(alias[1] or b"")) == {"version", "who", "when", "why"}
    (audit,) = of_kind("audit", made[0])
    assert "changes" not in json.loads(audit[1] or b"")
    assert view_of(*records, key=None).aliases == view.aliases
    signed = [record for each in history()[0] for record in each]
    read = view_of(*signed, key=None)
    assert (read.champion(), read.challenger(), read.predecessor()) == ("v3", None, "v2"), "and it reads signed ones"


def test_who_gets_a_key_decides_anew_and_keeps_what_was_decided() -> None:
    before = [record for each in history(None)[0] for record in each]
    view = view_of(*before, ("audit/m/999999999", b'{"version": "v"}', []))
    assert view.champion() is None and "models promote" in str(view.no_champion())
    after = decided(view, {"champion": "v3"})
    (audit,) = of_kind("audit", after)
    assert audit[0] == "audit/m/5", "what there was is not overwritten, and nobody uses the numbers up"
    assert view_of(*before, *after).champion() == "v3"
    assert "signed" not in str(RegistryView("m", KEY).no_champion())


@pytest.mark.parametrize("changes", [None, {}, {"champion": None}])
def test_what_an_audit_record_changes(changes: Any) -> None:
    view = view_of()
    view.aliases["champion"] = AliasRecord("v1", "w", "t", "y")
    view.decided["champion"] = 3
    value = json.dumps({"version": "v9", "changes": changes}).encode()
    apply(view, ("audit/m/4", value, signed(KEY, "audit/m/4", value)))
    assert (view.champion() is None) == bool(changes)
