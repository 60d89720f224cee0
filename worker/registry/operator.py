"""Who does something by a command: what the registry's history and labels say."""

import getpass
import platform


def who() -> str:
    """Return user and host."""
    try:
        return f"{getpass.getuser()}@{platform.node()}"
    except (KeyError, OSError):  # a container's user often has no name
        return platform.node()
