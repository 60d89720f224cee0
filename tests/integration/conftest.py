"""One broker for all processes that pytest-xdist runs these tests in."""

import contextlib
from dataclasses import asdict
from typing import Any

import pytest

from tests.brokers import any_broker

_shared = pytest.StashKey[dict[str, Any]]()


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Start the broker before xdist's first process, and tell each process about it."""
    config: pytest.Config = node.config
    if _shared not in config.stash:
        stack = contextlib.ExitStack()
        config.add_cleanup(stack.close)
        config.stash[_shared] = asdict(stack.enter_context(any_broker()))
    node.workerinput["broker"] = config.stash[_shared]
