"""The registry: model versions, aliases and history, in the compacted `models` topic.

    artefact/<name>/<version>              the artefact, or, for one in parts, a manifest (content-type manifest+json)
    artefact/<name>/<version>/part/<i>     a part of it
    alias/<name>/<champion|challenger|pin> {"version", "who", "when", "why"}
    audit/<name>/<sequence>                {"what", "version", "from", "who", "when", "why", ...}: whatever was decided,
                                           kept for ever
    trim/<name>/<version>/...              what scoring allows for since the training: trim_records.py

A decision is one Kafka transaction, with a transactional id that all decisions of the topic share. Whoever decides
fences everybody else who is about to, and ends a transaction that a dead process has left open. Only then is the
registry read for the decision. The same transaction prunes artefacts for which the decision leaves no room.

With a signing key, the records of a decision have a header `offnormal-signature`, the HMAC-SHA256 of their key and
value. The signed data contains the decision's number: as "sequence" in an alias, in the key of an audit record. An
audit record also has "changes", the aliases. A reader with the key accepts nothing else as a decision, and never an old
decision as a later one. Both kinds of records contain what an alias names. To bring back an old alias, an attacker
would therefore have to remove the audit record as well.

Compaction keeps the last record of each key. A tombstone removes an artefact. An artefact in parts counts only when its
manifest and all of its parts are there; the manifest is written last.
"""

import json
import random
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any, Final, Literal

from kafka import KafkaProducer, TopicPartition, errors

from worker.errors import NoModelError, OffnormalError
from worker.kafka import connection, waits
from worker.kafka.errors import OVERTAKEN, cause_in, readable_errors
from worker.kafka.reader import Reader
from worker.models import Artefact
from worker.registry.artefact_records import artefact_records
from worker.registry.trim_records import trim_key
from worker.registry.view import Alias, AliasRecord, RegistryView, signed
from worker.settings import Settings

# `taken back` is a rollback by a worker, in probation.
What = Literal[
    "promoted", "rolled back", "taken back", "refused", "challenger", "challenger dropped", "pinned", "unpinned"
]


_HALF_FOR: Final = 3600.0  # seconds for which somebody may still be writing the other parts
_TRIES: Final = 8  # attempts to decide while others decide at the same time
_PATIENCE: Final = 10.0  # seconds for each step of a decision, and for its transaction as a whole


@dataclass(frozen=True)
class Decision:
    """What is to be written: aliases to point at versions, or to remove; and the audit record."""

    what: What
    version: str | None
    alias: Alias | None  # whose former version the audit record names
    changes: Mapping[Alias, str | None]
    more: Mapping[str, Any]


def _named(view: RegistryView, alias: Alias) -> str | None:
    record = view.aliases.get(alias)
    return record.version if record else None


class Registry:
    """Reads and writes the models topic for one model."""

    def __init__(self, settings: Settings, name: str | None = None):
        """Work on OFFNORMAL_MODEL__NAME, unless another model is named."""
        self._settings = settings
        self._topic = settings.topics.models
        self._name = name or settings.model.name

    def view(self) -> RegistryView:
        """Return the registry as it stands now. Raises KafkaUnavailable."""
        view = RegistryView(self._name, self._settings.model.signing_key)
        with Reader(self._settings.kafka, self._topic) as reader:
            for block in reader.to_end():
                view.apply(block)
        return view

    def add(self, artefact: Artefact) -> None:
        """Write the artefact; nobody serves it yet. Raises KafkaUnavailable."""
        card = artefact.card
        self._write(artefact_records(card.name, card.version, artefact.dump(self._settings.model.signing_key)))

    def publish(self, artefact: Artefact, author: str, why: str) -> RegistryView:
        """Add the artefact and make it champion. Raises KafkaUnavailable, OffnormalError."""
        self.add(artefact)
        try:
            return self.promote(artefact.card.version, author, why)
        except NoModelError:
            # A process whose clock is an hour ahead has pruned its parts, taking them for those of a killed training.
            self.add(artefact)
            return self.promote(artefact.card.version, author, why)

    def promote(
        self, version: str, author: str, why: str, alias: Literal["champion", "challenger"] = "champion", **more: Any
    ) -> RegistryView:
        """Point the alias at a version, whatever is pinned. Raises NoModelError if it is missing or incomplete.

        `more` goes into the audit record.
        """

        def decide(view: RegistryView) -> Decision:
            view.artefact(version)
            decided: What = "promoted" if alias == "champion" else "challenger"
            changes: dict[Alias, str | None] = {alias: version}
            if alias == "champion" and view.challenger() == version:
                changes["challenger"] = None
            return Decision(decided, version, alias, changes, more)

        return self._decide(decide, author, why)

    def rollback(self, author: str, why: str) -> RegistryView:
        """Make the champion's predecessor champion again. Raises NoModelError if there is none."""
        return self._decide(lambda view: self._undo(view, "rolled back", {}), author, why)

    def take_back(self, version: str, author: str, why: str, **more: Any) -> RegistryView | None:
        """Roll this version back for a worker; return None if it is no longer in probation."""

        def decide(view: RegistryView) -> Decision | None:
            change = view.last_change()
            if change is None or change.get("what") != "promoted" or view.champion() != version or view.pinned():
                return None
            return self._undo(view, "taken back", more)

        return self._decide_if(decide, author, why)

    def _undo(self, view: RegistryView, decided: What, more: Mapping[str, Any]) -> "Decision":
        undone = view.predecessor()
        if undone is None:
            raise NoModelError(
                f"the champion of {self._name} has no predecessor to roll back to; `python -m training models list`"
                " shows what there is to promote"
            )
        view.artefact(undone)
        return Decision(decided, undone, "champion", {"champion": undone}, more)

    def promote_challenger(self, version: str, over: str, author: str, why: str, **more: Any) -> RegistryView | None:
        """Promote the challenger over the champion `over`; return None if either is no longer that."""

        def decide(view: RegistryView) -> Decision | None:
            if view.challenger() != version or view.champion() != over or view.pinned():
                return None
            view.artefact(version)
            return Decision("promoted", version, "champion", {"champion": version, "challenger": None}, more)

        return self._decide_if(decide, author, why)

    def refused(self, version: str, author: str, why: str, **more: Any) -> RegistryView:
        """Keep in the history that the gate refused a version."""
        return self._decide(lambda _: Decision("refused", version, None, {}, more), author, why)

    def drop_challenger(self, version: str, author: str, why: str, **more: Any) -> RegistryView | None:
        """Drop the challenger; return None if it is none any more."""

        def decide(view: RegistryView) -> Decision | None:
            if view.challenger() != version:
                return None
            return Decision("challenger dropped", version, "challenger", {"challenger": None}, more)

        return self._decide_if(decide, author, why)

    def pin(self, version: str | None, author: str, why: str) -> RegistryView:
        """Make a version champion, to stay; None ends that."""

        def decide(view: RegistryView) -> Decision:
            if version is None:
                return Decision("unpinned", view.champion(), "pin", {"pin": None}, {})
            view.artefact(version)
            return Decision("pinned", version, "champion", {"champion": version, "pin": version}, {})

        return self._decide(decide, author, why)

    def _decide(self, decide: "Callable[[RegistryView], Decision]", author: str, why: str) -> RegistryView:
        view = self._decide_if(decide, author, why)
        assert view is not None
        return view

    def _decide_if(
        self, decide: "Callable[[RegistryView], Decision | None]", author: str, why: str
    ) -> RegistryView | None:
        """Run `decide` on a fresh view, and write its decision in one fenced transaction.

        The transaction also prunes old artefacts. Returns None if `decide` changes nothing.
        """
        for tried in range(1, _TRIES + 1):
            with readable_errors(f"writing {self._topic}", self._settings.kafka.bootstrap):
                client = self._fencing()
                try:
                    client.init_transactions()  # fences everybody who began to decide before
                    view = self._view_of_all()
                    decision = decide(view)
                    if decision is None:
                        return None
                    client.begin_transaction()
                    for key, value in [*self._decision_records(decision, view, author, why), *self._pruned(view)]:
                        headers = signed(self._settings.model.signing_key, key, value)
                        client.send(self._topic, value, key.encode(), headers=headers, partition=0)
                    waits.commit_transaction(client, _PATIENCE)
                    return view
                except errors.UnsupportedVersionError as error:
                    raise OffnormalError(
                        f"{self._topic}: the broker has no transactions ({error}), which decisions about models need;"
                        " use Kafka 2.5 or later"
                    ) from error
                except errors.KafkaError as error:
                    if cause_in(error, OVERTAKEN) is None:
                        raise
                    if tried == _TRIES:
                        raise OffnormalError(
                            f"{self._topic}: other processes keep changing models; try again"
                        ) from error
                    time.sleep(random.uniform(0, 0.2 * tried))
                finally:
                    client.close(timeout=waits.CLOSE)
        raise AssertionError

    def _view_of_all(self) -> RegistryView:
        """Return the view, including what an open transaction holds back. Waits for that transaction.

        Raises OffnormalError where it does not end.
        """
        view = RegistryView(self._name, self._settings.model.signing_key)
        deadline = time.monotonic() + waits.DECISION
        with Reader(self._settings.kafka, self._topic) as reader:
            ends = self._ends()
            for block in reader.to_end():
                view.apply(block)
            while not reader.has_read(ends):
                block_or_none = reader.poll(0.2)
                if block_or_none is not None:
                    view.apply(block_or_none)
                elif time.monotonic() > deadline:
                    raise OffnormalError(
                        f"{self._topic}: another process's transaction has been open for {waits.DECISION:g} s, and may"
                        " contain a decision; try again once it has ended"
                    )
        return view

    def _ends(self) -> dict[int, int]:
        """Return the topic's end by partition, uncommitted records included."""
        client = connection.consumer(self._settings.kafka, isolation_level="read_uncommitted")
        try:
            places = [TopicPartition(self._topic, p) for p in waits.partitions_of(client, self._topic)]
            return {place.partition: end for place, end in waits.end_offsets(client, places).items()}
        finally:
            client.close(autocommit=False, timeout_ms=waits.CLOSE * 1000)

    def _fencing(self) -> KafkaProducer:
        kafka = self._settings.kafka
        return connection.producer(
            kafka,
            transactional_id=f"{self._topic}-decisions",
            transaction_timeout_ms=int(_PATIENCE * 1000),
            delivery_timeout_ms=int(_PATIENCE * 1000),
            request_timeout_ms=int(_PATIENCE * 500),
            max_block_ms=int(_PATIENCE * 1000),
            retry_backoff_ms=2,
        )

    def _decision_records(
        self, decision: "Decision", view: RegistryView, author: str, why: str
    ) -> list[tuple[str, bytes | None]]:
        """Return the records of a decision, and fold them into the view."""
        when = now()
        before = _named(view, decision.alias) if decision.alias else None
        audit: dict[str, Any] = {
            "what": decision.what,
            "version": decision.version,
            "alias": decision.alias,
            "from": before,
        }
        audit |= {"who": author, "when": when, "why": why, **decision.more}
        sequence = max(view.audit, default=view.unsigned) + 1
        signed = {} if view.key is None else {"sequence": sequence}
        if view.key is not None:
            audit["changes"] = dict(decision.changes)
        view.audit[sequence] = audit
        records: list[tuple[str, bytes | None]] = [(f"audit/{self._name}/{sequence}", json.dumps(audit).encode())]
        for alias, version in decision.changes.items():
            view.decided[alias] = sequence
            key = f"alias/{self._name}/{alias}"
            if version is None:
                view.aliases.pop(alias, None)
                records.append((key, None))
            else:
                view.aliases[alias] = AliasRecord(version, author, when, why)
                records.append((key, json.dumps(asdict(view.aliases[alias]) | signed).encode()))
        return records

    def _pruned(self, view: RegistryView) -> list[tuple[str, bytes | None]]:
        """Return tombstones of old versions, judged by the view after the decision.

        They belong to the decision's transaction, since the next decision may promote an old version.
        """
        # The predecessor is kept as well, since the champion may be rolled back to it. So are versions that were
        # written after all of these, since somebody is about to decide about them.
        named = {record.version for record in view.aliases.values()} | {view.predecessor()} - {None}
        versions = view.versions()
        last = max((k for k, version in enumerate(versions) if version in named), default=-1)
        spare = [version for version in versions[: last + 1] if version not in named]
        room = max(self._settings.model.keep - len(named), 0)
        keys = []
        for version in [*spare[: len(spare) - room], *view.halves(time.time() - _HALF_FOR)]:
            key = f"artefact/{self._name}/{version}"
            keys += [key, *(f"{key}/part/{i}" for i in view.parts.get(version, {}))]
            for place, trims in view.trims.get(version, {}).items():
                keys += [trim_key(self._name, version, place, number) for number in trims.offsets]
        return [(key, None) for key in keys]

    def _write(self, records: Iterable[tuple[str, bytes | None, list[tuple[str, bytes]]]]) -> None:
        connection.write(self._settings.kafka, self._topic, records, partition=0)


def now() -> str:
    """Return the time as RFC 3339, to the millisecond."""
    return datetime.fromtimestamp(time.time(), UTC).isoformat(timespec="milliseconds")
