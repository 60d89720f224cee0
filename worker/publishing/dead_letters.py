"""Dead letters: records that do not parse, as they came, with source and reason in headers of our own."""

from collections.abc import Sequence

import numpy as np

from worker.blocks import BytesColumn, RecordBlock, Reject
from worker.kafka import Outputs
from worker.kafka.outputs import encode_headers

LONGEST_ERROR = 500  # characters of the error that go with it


def dead_letters(topic: str, rejects: Sequence[Reject], records: RecordBlock) -> Outputs:
    """Return the rejected records for `topic`: original bytes, key and headers, and why they were rejected."""
    records = records.origin or records
    rejected = np.array([reject.record for reject in rejects], np.int64)
    headers = BytesColumn.of([encode_headers(_headers(reject, records)) for reject in rejects])
    return Outputs(topic, records.keys.take(rejected), records.values.take(rejected), headers)


def _headers(reject: Reject, records: RecordBlock) -> list[tuple[str, bytes | None]]:
    record = reject.record
    topic, partition = records.topics.place(int(records.partition[record]))
    return [
        ("offnormal-topic", topic.encode()),
        ("offnormal-partition", b"%d" % partition),
        ("offnormal-offset", b"%d" % records.offset[record]),
        ("offnormal-timestamp", b"%d" % records.timestamp[record]),
        ("offnormal-reason", reject.reason.encode()),
        ("offnormal-error", reject.error[:LONGEST_ERROR].encode("utf-8", "replace")),
        *(header for header in records.headers.get(record, ()) if not header[0].startswith("offnormal-")),
    ]
