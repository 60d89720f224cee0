"""Several topics: a number for each partition, from which topic and partition come back."""

import numpy as np
import pytest
from hypothesis import given, strategies as st

from worker.blocks import TopicSet
from worker.blocks.topic_set import MOST_PARTITIONS
from worker.blocks.vector_id import VectorId

NAMES = st.from_regex(r"[a-z]{1,9}", fullmatch=True)


def test_one_topic_has_kafkas_numbers() -> None:
    one = TopicSet("plant.a")
    assert one.number("plant.a", 7) == 7 and one.place(7) == ("plant.a", 7) and one.shown(7) == 7
    assert one.partitions(np.array([3, 7])).tolist() == [3, 7]
    assert "plant.a" in one and "plant.b" not in one and str(one) == "plant.a"


@given(st.lists(NAMES, min_size=2, unique=True), st.integers(0, MOST_PARTITIONS - 1))
def test_a_number_gives_topic_and_partition_back(names: list[str], partition: int) -> None:
    topics = TopicSet(",".join(names))
    numbers = [topics.number(name, partition) for name in names]
    assert len(set(numbers)) == len(names) and all(0 <= number < 2**63 for number in numbers)
    assert [topics.place(number) for number in numbers] == [(name, partition) for name in names]
    assert [topics.shown(number) for number in numbers] == [f"{name}/{partition}" for name in names]
    column = np.array(numbers)
    assert [*topics.topics(column)] == [name.encode() for name in names]
    assert topics.partitions(column).tolist() == [partition] * len(names)


def test_a_number_is_the_same_in_every_worker_and_in_any_list() -> None:
    """The state that is stored beside the offsets knows entities by it."""
    numbers = {TopicSet(text).number("plant.a", 3) for text in ("plant.a,plant.b", "plant.b,plant.a,x", r"^plant\..*")}
    assert numbers == {TopicSet("plant.a,b").number("plant.a", 3)}
    assert numbers == {1_563_617_707_107_024_899}


def test_a_pattern_has_to_match_the_whole_name() -> None:
    topics = TopicSet(r"^plant-\d+")
    assert topics.among(["plant-2", "plant-1", "plant-1-old", "my-plant-1", "plant-"]) == ["plant-1", "plant-2"]
    assert 7 not in topics and None not in topics


def test_the_same_text_is_the_same_object() -> None:
    assert TopicSet.of("a,b") is TopicSet.of("a,b") is not TopicSet.of("b,a")


@pytest.mark.parametrize(
    ("text", "is_one"), [("a/0/1/2", True), ("b/0/1/2", True), ("c/0/1/2", False), (f"a/{MOST_PARTITIONS}/1/2", False)]
)
def test_an_id_is_of_one_of_the_topics(text: str, is_one: bool) -> None:
    assert (VectorId.parse(text, TopicSet("a,b")) is not None) == is_one
