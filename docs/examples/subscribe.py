"""Follows anomaly events: `python subscribe.py localhost:9092`. Needs kafka-python alone.

read_committed, or one would see what a worker that crashed has not committed.
"""

import json
import sys

from kafka import KafkaConsumer


def main() -> None:
    consumer = KafkaConsumer(
        "offnormal.anomalies",
        bootstrap_servers=sys.argv[1],
        group_id="my-dashboard",
        isolation_level="read_committed",
        auto_offset_reset="earliest",
    )
    for record in consumer:
        event = json.loads(record.value)
        data = event["data"]
        guilty = ", ".join(f"{f['name']} {f['actual']} (expected {f['expected']})" for f in data["features"][:3])
        print(f"{data['time']} {data['severity']:<7} {data['entity']}: p {data['p_value']:.1e}; {guilty}", flush=True)


if __name__ == "__main__":
    main()
