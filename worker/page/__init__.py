"""The live page: what a person on shift wants to see, served by the worker beside probes and metrics.

The loop does no work for it. feed.py looks at the worker's counters each second, and, while somebody views the page,
reads incidents from Kafka. incident_detail.py reads the vectors around one incident back, and scores them again.
access.py controls the access, and routes.py answers requests. The browser's code is in static/.
"""

from worker.page.feed import Decisions
from worker.page.routes import Page

__all__ = ["Decisions", "Page"]
