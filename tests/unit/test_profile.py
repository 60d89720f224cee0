"""`--profile`: where the time went."""

from worker.metrics import Metrics


def test_the_profile_tells_time_a_row() -> None:
    metrics = Metrics()
    metrics.batch_rows.observe(1000)
    metrics.stage.labels("decode").observe(0.001)
    metrics.stage.labels("score").observe(0.002)
    told = metrics.profile().splitlines()
    assert told[0] == "1,000 rows"
    assert [line.split()[:2] for line in told[2:]] == [["score", "2000"], ["decode", "1000"]]


def test_without_any_row_there_is_nothing_to_divide_by() -> None:
    assert Metrics().profile().startswith("0 rows")
