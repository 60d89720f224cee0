"""A reader of the sensor topics outside of the loop, whose blocks are as the loop decodes them."""

from contextlib import ExitStack
from typing import TYPE_CHECKING

from worker.decoding.sparkplug.births import Birth, Births
from worker.kafka.reader import Reader
from worker.settings import InputSettings, KafkaSettings, Settings

if TYPE_CHECKING:
    from worker.decoding.sparkplug.translator import Translator


def translator_of(inputs: InputSettings, births: Births) -> "Translator | None":
    """Return what makes JSON of records that are not decoded as they are; None where all are."""
    if not inputs.is_sparkplug:
        return None
    from worker.decoding.sparkplug.translator import Translator

    return Translator(inputs, births)


def sensor_reader(
    settings: Settings,
    kafka: KafkaSettings | None = None,
    max_records: int = 5000,
    only: tuple[str, int] | None = None,
) -> Reader:
    """Return a reader of the sensor topics. Raises worker.errors.KafkaError.

    `kafka` are other settings of the connection. The other arguments are the reader's.
    """
    kafka, births = kafka or settings.kafka, Births()
    translator = translator_of(settings.input, births)
    if translator is None:
        return Reader(kafka, settings.topics.sensors, max_records, only=only)
    sensors = Reader(kafka, settings.topics.sensors, max_records, only=only, prepare=translator.translate)
    with ExitStack() as on_error:
        on_error.callback(sensors.close)
        topic_ids = sensors.topic_ids()
        with Reader(kafka, settings.topics.births) as reader:
            for block in reader.to_end():
                for birth in (Birth.read(value, sensors.topics) for value in block.values):
                    if birth is not None and birth.is_of(topic_ids.get(birth.topic(sensors.topics))):
                        births.take(birth)
        on_error.pop_all()
    return sensors
