"""Posts each incident that is worth a page to a webhook, as Slack and its kin take it:

    python webhook.py localhost:9092 https://hooks.example.com/services/...

At least once: an offset is committed after its post has succeeded. What the hook cannot take now is tried again, with
growing pauses, and nothing behind it is skipped; what it will never take (400 to 499, not 408 and 429) is said and
left.
"""

import json
import sys
import time
import urllib.error
import urllib.request

from kafka import KafkaConsumer


def main() -> None:
    bootstrap, hook = sys.argv[1:3]
    consumer = KafkaConsumer(
        "offnormal.incidents",
        bootstrap_servers=bootstrap,
        group_id="offnormal-webhook",
        isolation_level="read_committed",
        auto_offset_reset="latest",
        enable_auto_commit=False,
        max_poll_records=1,
        max_poll_interval_ms=3_600_000,
    )
    for record in consumer:
        incident = json.loads(record.value)["data"] if record.value else {}
        # `notify` is true on one record of an opening, at most once per cool-down and machine.
        if incident.get("notify"):
            post(hook, {"text": text(incident)})
        consumer.commit()


def text(incident: dict) -> str:
    guilty = ", ".join(feature["name"] for feature in incident["features"][:3])
    return (
        f"{incident['severity'].upper()} on {incident['entity'] or 'the plant'} since {incident['started']}: {guilty}"
        f" ({incident['vectors']} vectors, p {incident['peak_p_value']:.1e}; {incident['incident']})"
    )


def post(hook: str, message: dict) -> None:
    body, pause = json.dumps(message).encode(), 1.0
    while True:
        request = urllib.request.Request(hook, body, {"Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=10):
                return
        except urllib.error.HTTPError as error:
            if 400 <= error.code < 500 and error.code not in (408, 429):
                print(f"the hook does not take it ({error.code}): {message['text']}", file=sys.stderr, flush=True)
                return
            reason = str(error)
        except OSError as error:
            reason = str(error)
        print(f"again in {pause:g} s: {reason}", file=sys.stderr, flush=True)
        time.sleep(pause)
        pause = min(2 * pause, 60.0)


if __name__ == "__main__":
    main()
