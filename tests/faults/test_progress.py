"""The check of standstills: it must report what is wrong, and nothing else."""

from tests.cluster import _java_hash
from tests.faults.progress import MARGIN, Interruption, Standstill, judge


def test_a_record_that_was_in_flight_when_a_fault_began_stands_still_by_that_fault() -> None:
    interruptions = [Interruption("first", 3.0, began=100.0), Interruption("second", 3.0, began=105.0)]
    told, _ = judge(interruptions, [Standstill(0, 104.5, 111.0), Standstill(1, 99.5, 101.0)])
    assert "first x 1: median 1.0 s" in told and "second x 1: median 6.0 s" in told


def test_a_standstill_is_due_to_the_last_interruption_before_it() -> None:
    interruptions = [Interruption("first", 3.0, began=100.0), Interruption("second", 3.0, began=110.0)]
    long = 3.0 + MARGIN + 4
    told, complaints = judge(interruptions, [Standstill(0, 104.0, 104.0 + long)])
    assert f"first x 1: median {long:.1f} s" in told and "second x 1: median 0.0 s" in told
    assert len(complaints) == 1 and complaints[0].startswith(f"first: a partition stood still for {long:.1f} s")


def test_it_counts_from_the_interruption_on_and_not_before() -> None:
    interruptions = [Interruption("back", 3.0, began=100.0)]
    assert judge(interruptions, [Standstill(0, 20.0, 99.0)]) == (
        "standstills after back x 1: median 0.0 s, at most 0.0 s (promised: 3)",
        [],
    )
    told, complaints = judge(interruptions, [Standstill(0, 20.0, 102.0)])
    assert "at most 2.0 s" in told and not complaints


def test_the_median_has_a_limit_of_its_own() -> None:
    interruptions = [Interruption("restart", 20.0, 3.0, began=100.0 * k) for k in range(1, 4)]
    slow = 3.0 + MARGIN + 1
    found = [Standstill(0, 100.0 * k, 100.0 * k + slow) for k in (1, 2)]
    assert judge(interruptions, found)[1] == [f"restart: median standstill {slow:.1f} s, 3 s are promised"]
    assert judge(interruptions, found[:1])[1] == []


def test_partitions_that_are_spared_do_not_count() -> None:
    interruptions = [Interruption("leaderless", 3.0, spares=frozenset([2]), began=100.0)]
    assert judge(interruptions, [Standstill(2, 100.0, 200.0)])[1] == []
    assert judge(interruptions, [Standstill(1, 100.0, 200.0)])[1] != []


def test_names_are_spread_as_by_java() -> None:
    names = ("", "a", "offnormal", "t0123456789", "polygenelubricants")  # the last one's is the least integer
    assert [_java_hash(name) for name in names] == [0, 97, 52845334, 1444431225, 0]
