"""Sends vectors of a press that does not exist, to try things on. Needs kafka-python alone.

    python send.py localhost:9092            # twelve hours of normal operation, a vector a second, until now
    python send.py localhost:9092 --fault    # two minutes of a leak

With the leak the pressure is low for the speed, though it has been as low before, at other speeds.
"""

import json
import random
import sys
import time

from kafka import KafkaProducer


def main() -> None:
    fault = "--fault" in sys.argv
    seconds = 120 if fault else 12 * 3600
    # A producer of input that retries needs idempotence, or its repeats are vectors of their own.
    producer = KafkaProducer(bootstrap_servers=sys.argv[1], enable_idempotence=True)
    now = int(time.time())
    for second in range(now - seconds, now):
        producer.send(
            "offnormal.sensors",
            json.dumps(vector(fault)).encode(),
            key=b"press-1",  # the machine: its vectors stay in one partition, in their order
            timestamp_ms=second * 1000,
        )
    producer.flush()
    print(f"{seconds:,} vectors of press-1" + (", with a leak" if fault else ""))


def vector(fault: bool) -> dict[str, float]:
    speed = random.gauss(50, 10)
    pressure = 10 + (0.1 if fault else 0.2) * speed + random.gauss(0, 0.2)
    flow = 0.6 * speed + random.gauss(0, 0.5)
    heat = 20 + 0.3 * speed + random.gauss(0, 0.5)
    return {"speed": speed, "pressure": pressure, "flow": flow, "heat": heat}


if __name__ == "__main__":
    main()
