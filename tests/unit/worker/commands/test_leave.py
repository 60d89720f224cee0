"""Who leaves the group when workers are scaled in."""

import pytest

from worker.commands.leave import _is_beyond


@pytest.mark.parametrize(
    ("instance", "leaves"),
    [
        ("w-2", True),
        ("w-10", True),
        ("w-1", False),
        ("w", False),
        ("", False),
        ("w-2-3", False),
        ("v-2", False),
        ("w-²", False),
    ],
)
def test_only_those_of_the_name_and_beyond(instance: str, leaves: bool) -> None:
    assert _is_beyond(instance, "w", 2) == leaves
