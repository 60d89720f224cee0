"""docs/your-data.md: each of its ten records is read by the settings that stand beside it, into what it says."""

import json
import os
import re
from typing import NamedTuple
from unittest import mock

import numpy as np
import pytest

from tests.markdown import ROOT
from tests.record_blocks import block_of
from worker.decoding import Decoder
from worker.settings import load

PAGE = (ROOT / "docs/your-data.md").read_text()


class Section(NamedTuple):
    title: str
    record: str
    settings: dict[str, str]


def sections() -> list[Section]:
    found = []
    for part in re.split(r"^## ", PAGE, flags=re.MULTILINE)[1:]:
        title = part.partition("\n")[0]
        if records := re.findall(r"```json\n(.*?)\n```", part, re.DOTALL):
            lines = re.findall(r"^export (\w+)=(.*)$", part, re.MULTILINE)
            found.append(Section(title, records[0], dict(lines)))
    return found


FEATURES = {
    "1": ("pressure", "flow", "speed"),
    "3": ("data.hydraulics.pressure", "data.hydraulics.flow"),
    "5": ("usage_user", "usage_idle"),
    "7": ("Pressure.Value", "Flow.Value"),
    "8": ("Pressure", "Flow"),
}
ENTITIES = {
    "2": "press-7",
    "3": "press-7",
    "5": "web-1",
    "7": "gateway-1",
    "9": "north",
    "10": "/press/7",
}


NUMBERED = [section for section in sections() if section.title[0].isdecimal()]


def test_there_are_ten() -> None:
    assert [section.title.partition(".")[0] for section in NUMBERED] == [str(k) for k in range(1, 11)]


def test_a_single_reading_is_read_by_the_settings_beside_it() -> None:
    (section,) = [section for section in sections() if section.title == "Single readings"]
    with mock.patch.dict(os.environ, section.settings):
        settings = load()
    block = Decoder(settings.input, ("flow", "pressure")).readings(block_of([section.record.encode()]))
    assert (block.column.tolist(), block.value.tolist(), block.timed) == ([1], [np.float32(10.2)], 1)


@pytest.mark.parametrize("section", NUMBERED, ids=lambda section: section.title)
def test_a_record_is_read_by_the_settings_beside_it(section: Section) -> None:
    number = section.title.partition(".")[0]
    with mock.patch.dict(os.environ, section.settings):
        settings = load()
    features = FEATURES.get(number, ("pressure", "flow"))
    assert all(feature.rpartition(".")[2] in section.record for feature in features)
    block = Decoder(settings.input, features).decode(block_of([section.record.encode()] * 2))
    assert not block.rejects
    assert len(block) == 2 * (len(json.loads(section.record)) if number == "4" else 1)
    assert np.isfinite(block.x).all()
    assert block.x[0, 0] == np.float32({"5": 7.1}.get(number, 10.2))
    assert set(block.entities.values()) == ({ENTITIES[number]} if number in ENTITIES else set())
    assert block.timed == (0 if number == "1" else 2)
