"""`python -m worker explain CODE`: what a code of an error, a gate refusal or a dead letter means, and what to do."""

import sys

from worker.explanations import explanations


def run(code: str | None) -> int:
    """Print the paragraph of a code; without one, all codes. Return the exit code."""
    by_code = explanations()
    if code is not None and code not in by_code:
        print("offnormal: no such code; `python -m worker explain` lists them [settings]", file=sys.stderr)
        return 2
    print("\n".join(by_code) if code is None else by_code[code])
    return 0
