"""When the watchdog considers a worker stuck: if the brokers' answers show it, never for a pause that has a reason."""

from worker.runtime.watchdog import LoopReport, Progress

PATIENCE = 18.0


def run(progress: Progress, looks: dict[float, LoopReport], behind: dict[int, bool], until: float) -> str | None:
    """A look each second, the last one that was given; the broker is asked of what stands still for 6 s."""
    look = LoopReport(True)
    for second in range(int(until) + 1):
        look = looks.get(second, look)
        progress.update(look, second)
        still = progress.still(second, 6.0)
        progress.answered({p: behind.get(p, False) for p in still}, second)
    return progress.reason(until, PATIENCE, int)


def test_a_partition_with_records_and_no_commit_is_stuck_after_some_sessions() -> None:
    looks = {0.0: LoopReport(True, {0: 5, 1: 9})}
    assert run(Progress(0), looks, {1: True}, 23) is None
    reason = run(Progress(0), looks, {1: True}, 24)
    assert reason is not None and "[1]" in reason and "18 s" in reason


def test_an_idle_partition_is_not_stuck_however_long_it_rests() -> None:
    assert run(Progress(0), {0.0: LoopReport(True, {0: 5})}, {}, 10_000) is None


def test_records_that_have_just_come_do_not_make_a_long_rest_a_fault() -> None:
    progress = Progress(0)
    assert run(progress, {0.0: LoopReport(True, {0: 5})}, {}, 500) is None
    progress.answered({0: True}, 501)
    assert progress.reason(501, PATIENCE, int) is None
    progress.update(LoopReport(True, {0: 6}), 502)
    assert progress.reason(519, PATIENCE, int) is None, "it was committed in time"


def test_commits_are_what_counts_not_records_that_are_read_again_and_again() -> None:
    looks: dict[float, LoopReport] = {t: LoopReport(True, {0: 5}, progress=3) for t in range(100)}
    assert run(Progress(0), looks, {0: True}, 60) is not None


def test_windows_that_are_filled_go_on_without_a_commit() -> None:
    looks: dict[float, LoopReport] = {t: LoopReport(True, {0: 5}, progress=int(t)) for t in range(100)}
    assert run(Progress(0), looks, {0: True}, 99) is None


def test_no_stable_membership_is_stuck_with_partitions_or_without() -> None:
    assert run(Progress(0), {0.0: LoopReport(False)}, {}, 17) is None
    reason = run(Progress(0), {0.0: LoopReport(False)}, {}, 18)
    assert reason is not None and "no stable member" in reason


def test_a_spare_without_partitions_is_well() -> None:
    assert run(Progress(0), {0.0: LoopReport(True)}, {}, 1000) is None


def test_who_waits_for_somebody_else_than_kafka_is_excused() -> None:
    looks = {0.0: LoopReport(True, {0: 5}, is_excused=True)}
    assert run(Progress(0), looks, {0: True}, 1000) is None


def test_a_partition_that_is_anothers_now_is_forgotten() -> None:
    looks = {0.0: LoopReport(True, {0: 5}), 10.0: LoopReport(True, {})}
    progress = Progress(0)
    assert run(progress, looks, {0: True}, 100) is None
    assert progress.moved_at == {} and progress.behind_at == {}


def test_a_partition_that_comes_has_time_to_be_adopted() -> None:
    looks = {0.0: LoopReport(True, {}), 50.0: LoopReport(True, {0: None})}
    assert run(Progress(0), looks, {0: True}, 60) is None
    assert run(Progress(0), looks, {0: True}, 80) is not None
