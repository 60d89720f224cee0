"""`python -m training report`, and the reports that trainings leave behind.

An artefact carries what its page shows (training/report/collect.py), so that the registry is enough to draw one.
"""

import errno
import gzip
import os
import zlib
from argparse import Namespace
from dataclasses import replace
from pathlib import Path
from typing import Final

import structlog
from pydantic import ValidationError

from training.data.selection import Selection
from training.data.window import Window
from training.fitting.champion_scores import ChampionScores
from training.fitting.fit import Fitted
from training.gate.gate import Verdict
from training.report.collect import Report, collect
from training.report.render import page
from worker.errors import ArtefactError, NoModelError, SettingsError
from worker.kafka.topics import require
from worker.models import Artefact
from worker.registry import Registry, RegistryView
from worker.settings import Settings

log = structlog.get_logger()

MOST_UNPACKED: Final = 4 * 2**20  # some ten times what a report has
_SETTING: Final = "OFFNORMAL_TRAINING__REPORTS"
_NEXT: Final = "the next `python -m training` makes a model with a report of its own"


def run(settings: Settings, arguments: Namespace) -> None:
    """Draw the report of a version to a file."""
    require(settings, reads=[settings.topics.models])
    view = Registry(settings).view()
    version = arguments.version or view.require_champion()
    drawn = draw(Artefact.load(view.artefact(version)), standing(view, version))
    try:
        Path(arguments.out).write_bytes(drawn)
    except OSError as error:
        raise SettingsError(f"--out {arguments.out}: {error.strerror}") from None
    print(f"{view.name}/{version} in {arguments.out}")


def standing(view: RegistryView, version: str) -> str:
    """Return what the version is now; empty where it is nothing in particular."""
    if version in (view.champion(), view.challenger()):
        return "champion" if version == view.champion() else "challenger"
    decided = [str(entry.get("what")) for entry in view.history() if entry.get("version") == version]
    return "refused" if decided[-1:] == ["refused"] else "former champion" if "promoted" in decided else ""


def attach(
    artefact: Artefact,
    rows: Window,
    selected: Selection,
    fitted: Fitted,
    verdict: Verdict,
    champion: ChampionScores | None,
) -> Artefact:
    """Return the artefact with its report, or without one if that fails: a report must not cost a model."""
    try:
        return replace(artefact, report=pack(collect(rows, selected, fitted, verdict, champion)))
    except Exception:
        log.warning("report_collection_failed", model_version=artefact.card.version, exc_info=True)
        return artefact


def pack(report: Report) -> bytes:
    """Return the report compressed, as it travels in the artefact."""
    return gzip.compress(report.model_dump_json().encode(), mtime=0)


def unpack(data: bytes) -> Report:
    """Read a report. Raises ArtefactError if it is malformed, since the data may come from anybody."""
    try:
        unpacking = zlib.decompressobj(wbits=31)
        text = unpacking.decompress(data, MOST_UNPACKED)
        if unpacking.unconsumed_tail:
            raise ArtefactError(f"the report unpacks to more than {MOST_UNPACKED // 2**20} MiB", _NEXT)
        if not unpacking.eof:
            raise ArtefactError("the report is cut off", _NEXT)
        return Report.model_validate_json(text)
    except zlib.error:
        raise ArtefactError("the report is damaged", _NEXT) from None
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"]))[:100]
        raise ArtefactError(f"the report is damaged, or of another version: {where}: {first['msg']}", _NEXT) from None


def draw(artefact: Artefact, role: str) -> bytes:
    """Return the page.

    Raises NoModelError where the artefact carries no report, ArtefactError where that is damaged.
    """
    card = artefact.card
    if artefact.report is None:
        raise NoModelError(f"{card.name}/{card.version} carries no report: it was made by an earlier program; {_NEXT}")
    report = unpack(artefact.report)
    try:
        return page(card, report, role).encode("utf-8", "replace")
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError):
        # When the card was read, only the names of its parts were checked.
        raise ArtefactError(f"the model card of {card.name}/{card.version} has no figures to draw", _NEXT) from None


def prepare(directory: str | None) -> None:
    """Check before a training that the reports' directory can be written."""
    if directory is None:
        return
    try:
        Path(directory).mkdir(parents=True, exist_ok=True)
        if not os.access(directory, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except OSError as error:
        log.warning("report_directory_refused", setting=_SETTING, directory=directory, reason=error.strerror)


def keep(directory: str | None, artefact: Artefact, role: str) -> None:
    """Write the page of a training. A failure is logged, and changes nothing else."""
    if directory is None or artefact.report is None:
        return
    file = Path(directory) / f"{artefact.card.name}-{artefact.card.version}.html"
    try:
        file.write_bytes(draw(artefact, role))
        log.info("report_written", file=str(file))
    except OSError as error:
        log.warning("report_write_failed", setting=_SETTING, file=str(file), reason=error.strerror)
    except Exception:
        log.warning("report_drawing_failed", file=str(file), exc_info=True)
