"""`python -m worker asyncapi`: the topics and messages as a document for those who subscribe."""

import json
from argparse import Namespace

from worker.publishing.asyncapi import document
from worker.settings import Settings


def run(settings: Settings, arguments: Namespace) -> None:
    """Print the AsyncAPI document."""
    del arguments
    print(json.dumps(document(settings), indent=1))
