"""Sends vectors of a press that does not exist, to try things on. Needs kafka-python alone.

python send.py localhost:9092            # two hours of normal operation, a vector a second, until now
python send.py localhost:9092 --fault    # two minutes of a leak: no reading is unusual by itself, but the pressure
                                         # no longer rises with the speed
"""

import json
import math
import random
import sys
import time

from kafka import KafkaProducer


def main() -> None:
    fault = "--fault" in sys.argv
    seconds = 120 if fault else 7200
    # A producer of input that retries needs idempotence, or its repeats are vectors of their own.
    producer = KafkaProducer(bootstrap_servers=sys.argv[1], enable_idempotence=True)
    now = int(time.time())
    for second in range(now - seconds, now):
        producer.send(
            "offnormal.sensors",
            json.dumps(vector(second, fault)).encode(),
            key=b"press-1",  # the machine: its vectors stay in one partition, in their order
            timestamp_ms=second * 1000,
        )
    producer.flush()
    print(f"{seconds:,} vectors of press-1" + (", with a leak" if fault else ""))


def vector(second: int, fault: bool) -> dict[str, float]:
    speed = 50 + 20 * math.sin(second / 300) + random.gauss(0, 1)
    pressure = 10 + 0.2 * (90 - speed if fault else speed) + random.gauss(0, 0.2)
    flow = 0.6 * speed + random.gauss(0, 0.5)
    heat = 20 + 0.3 * speed + 0.5 * pressure + random.gauss(0, 0.3)
    return {"speed": speed, "pressure": pressure, "flow": flow, "heat": heat}


if __name__ == "__main__":
    main()
