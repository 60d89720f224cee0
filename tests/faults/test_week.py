"""Some days of operation in fast-forward: what the registry tells of them, and that nothing grows."""

import os
from datetime import datetime
from pathlib import Path

from tests.benchmarks.loop.week import BROKEN, DAY, SCHEDULE, Week
from tests.brokers import Broker

DAYS = int(os.environ.get("OFFNORMAL_TEST_DAYS", "2"))  # 7 for the whole of it


def test_days_of_operation_are_told_truly(apache: Broker, tmp_path: Path) -> None:
    told = Week(apache.bootstrap, tmp_path, DAYS).run()
    assert told["exit_codes"] == (0, 0)
    history, begin = told["history"], told["begin"]
    hours = [(datetime.fromisoformat(entry["when"]).timestamp() - begin) / 3600 for entry in history]
    assert hours == sorted(hours)
    assert (history[0]["what"], history[0]["why"]) == ("promoted", "the first model")
    # Before the begin the clock stands still, or nearly.
    when = [(hour, entry.get("trained_for", "")) for hour, entry in zip(hours, history, strict=True) if hour >= 0]
    scheduled = [hour for hour, why in when if SCHEDULE in why]
    assert {int(hour // 24) for hour in scheduled} == set(range(DAYS)), "one a day"
    assert all(3 <= hour % 24 < 14 for hour in scheduled), "a training takes hours, this fast"
    if DAYS * 24 > BROKEN + 12:
        (taken,) = [entry for entry in history if entry["what"] == "taken back"]
        forced = next(entry for entry in history if entry["why"] == "forced")
        assert (taken["from"], taken["version"]) == (forced["version"], forced["from"])
    champions = [entry["version"] for entry in history if entry["alias"] == "champion"]
    assert told["champion"] == champions[-1]
    assert len(told["kept"]) <= 5 and told["sizes"]["drift"] < 40 and told["requests"] <= 8 * DAYS
    before, after = told["memory"]
    assert after < 1.25 * before + 30e6, "memory does not grow"
    assert len(told["events"]) < 0.2 * DAYS * DAY
