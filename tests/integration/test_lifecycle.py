"""Starting, stopping, and telling what is wrong."""

import json
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from tests.brokers import ApacheKafka, Broker
from tests.models import normal_rows
from tests.stage import Stage, until
from worker.demo.broker import free_port
from worker.kafka.topics import create
from worker.models import Artefact

MakeStage = Callable[..., Stage]


def get(port: int, path: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()
    except OSError:
        return 0, ""


def test_without_a_champion_it_waits_and_consumes_nothing(
    stage: MakeStage, apache: Broker, artefact: Artefact, rng: np.random.Generator
) -> None:
    port = free_port()
    s = stage(OFFNORMAL_HTTP__PORT=str(port), OFFNORMAL_HTTP__HOST="127.0.0.1").make_topics(1)
    s.send_rows(normal_rows(100, rng))
    worker = s.worker()
    worker.await_log("champion_awaited")
    assert get(port, "/livez")[0] == 200
    status, detail = get(port, "/readyz")
    assert status == 503 and json.loads(detail)["waits_for"] == "a champion"
    assert s.committed() == {}
    s.publish(artefact)
    until(lambda: get(port, "/readyz")[0] == 200 and s.committed() == {0: 100})
    metrics = get(port, "/metrics")[1]
    assert f'offnormal_vectors_total{{model_version="{artefact.card.version}"}} 100.0' in metrics
    for name in (
        "offnormal_lag_records",
        "offnormal_stage_seconds",
        "offnormal_batch_rows",
        "offnormal_model_info",
        "offnormal_dead_letters",
        "offnormal_model_swaps_total",
        "offnormal_device_memory_bytes",
    ):
        assert name in metrics
    assert get(port, "/etc/passwd")[0] == 404
    assert worker.stop() == 0


def test_log_lines_carry_their_context(stage: MakeStage, broker: Broker, artefact: Artefact) -> None:
    s = stage().make_topics(2)
    s.publish(artefact)
    worker = s.worker()
    worker.await_log("partitions_assigned")
    s.send([b"[10, 0, -5, 100]"] * 4)
    worker.await_log("pipeline_model_changed")
    assert worker.stop() == 0
    (line,) = worker.log("worker_stopped")
    assert line["group"] == s.settings.kafka.group
    assert line["model_version"] == artefact.card.version
    assert line["partitions"] == [0, 1]


def test_sigterm_finishes_the_batch_and_ends_within_ten_seconds(
    stage: MakeStage, apache: Broker, artefact: Artefact, rng: np.random.Generator
) -> None:
    s = stage().make_topics(2)
    s.publish(artefact)
    worker = s.worker()
    worker.await_log("partitions_assigned")
    places = s.send_rows(normal_rows(8000, rng))
    until(lambda: len(s.read(s.topics.scores)) > 0, every=0.01)
    begun = time.monotonic()
    assert worker.stop() == 0
    assert time.monotonic() - begun < 10
    scored, committed = s.scores(), s.committed()
    assert set(scored) == {(p, o) for p, o in places if o < committed.get(p, 0)}, "scores and offsets tell the same"
    assert all(len(scores) == 1 for scores in scored.values())


def test_a_worker_that_waits_for_a_champion_stops_within_ten_seconds(stage: MakeStage, broker: Broker) -> None:
    s = stage().make_topics(1)
    worker = s.worker()
    worker.await_log("champion_awaited")
    assert worker.stop(timeout=10) == 0


def test_kafka_away_at_start(stage: MakeStage, broker: Broker) -> None:
    s = stage()
    address = f"127.0.0.1:{free_port()}"
    for process in (s.worker, s.training):
        run = process(OFFNORMAL_KAFKA__BOOTSTRAP=address, OFFNORMAL_KAFKA__STARTUP_TIMEOUT="2s")
        assert run.wait() == 4
        assert [line for line in run.errors.splitlines() if line.startswith("offnormal: ") and address in line]
        assert "Traceback" not in run.errors


def test_missing_topics_are_named(stage: MakeStage, broker: Broker) -> None:
    s = stage()
    run = s.worker()
    assert run.wait() == 4
    assert s.topics.sensors in run.errors and "python -m worker topics" in run.errors


def test_topics_may_be_made_by_several_at_once(stage: MakeStage, apache: Broker) -> None:
    """As the init containers of replicas do."""
    s = stage()
    with ThreadPoolExecutor(4) as pool:
        made = [future.result(60) for future in [pool.submit(create, s.settings, 3, 1) for _ in range(4)]]
    assert all(state.partitions for states in made for state in states)
    assert {state.partitions for state in made[0] if state.spec.name == s.topics.sensors} == {3}


def test_wrong_settings_are_named(stage: MakeStage, broker: Broker) -> None:
    s = stage()
    for name, value in (("OFFNORMAL_BATCH__MAX_ROWS", "many"), ("OFFNORMAL_INPUT__FORMAT", "avro")):
        run = s.worker(**{name: value})
        assert run.wait() == 2
        assert name in run.errors and len(run.errors.splitlines()) == 1


def test_check_tells_what_is_wrong_and_what_to_do(stage: MakeStage, apache: Broker, artefact: Artefact) -> None:
    s = stage()
    bare = s.worker("check", "--json")
    assert bare.wait() == 4
    found = json.loads(bare.output.splitlines()[-1])["checks"]
    assert (
        found["broker"]["ok"] and not found["topics"]["ok"] and "python -m worker topics" in found["topics"]["detail"]
    )
    made = s.worker("topics", "--partitions", "2", "--replication", "1", "--json")
    assert made.wait() == 0
    assert json.loads(made.output.splitlines()[-1])[s.topics.models] == {"partitions": 1, "made": True}
    assert f"{s.topics.sensors} keeps records for 7 days" in made.output
    without = s.worker("check", "--json")
    assert without.wait() == 5
    assert "python -m training" in json.loads(without.output.splitlines()[-1])["checks"]["champion"]["detail"]
    s.publish(artefact)
    assert s.worker("check").wait() == 0


def test_alerts_are_shown(stage: MakeStage, apache: Broker, artefact: Artefact) -> None:
    s = stage().make_topics(1)
    s.publish(artefact)
    s.send([b"[900, 0, -5, 100]", b"[10, 900, -5, 100]"] * 4, keys=[b"press-1", b"[red]press-2"] * 4)
    assert s.worker("--until-end").wait() == 0
    shown = s.worker("alerts", "--since", "earliest", "--until-end")
    assert shown.wait() == 0
    lines = shown.output.splitlines()
    assert len(lines) == 2, "one for each incident"
    assert any("press-1" in line and "related: [red]press-2" in line for line in lines)
    assert all("open" in line and "notify" in line for line in lines)
    single = s.worker("alerts", "--events", "--since", "earliest", "--until-end")
    assert single.wait() == 0
    assert len(single.output.splitlines()) == 8 and "pressure" in single.output
    for arguments in (["--events"], []):
        piped = s.worker("alerts", *arguments, "--since", "1h", "--until-end", "--json", "--entity", "press-1")
        assert piped.wait() == 0
        assert {json.loads(line)["subject"] for line in piped.output.splitlines()} == {"press-1"}


def test_a_broker_that_goes_away_is_waited_for(
    stage: MakeStage, own_kafka: ApacheKafka, artefact: Artefact, rng: np.random.Generator
) -> None:
    s = stage(OFFNORMAL_KAFKA__BOOTSTRAP=own_kafka.bootstrap).make_topics(2)
    s.publish(artefact)
    worker = s.worker()
    worker.await_log("partitions_assigned")
    places = s.send_rows(normal_rows(2000, rng))
    until(lambda: sum(s.committed().values()) > 0)
    own_kafka.kill()
    time.sleep(4)
    assert worker.popen.poll() is None
    own_kafka.start()
    places += s.send_rows(normal_rows(2000, rng))
    until(lambda: sum(s.committed().values()) == 4000, 60)
    assert worker.stop() == 0
    scores = s.scores()
    assert set(scores) == set(places)
    assert all(len(each) == 1 for each in scores.values())


def test_sigterm_is_obeyed_while_the_broker_is_away(
    stage: MakeStage, own_kafka: ApacheKafka, artefact: Artefact, rng: np.random.Generator
) -> None:
    s = stage(OFFNORMAL_KAFKA__BOOTSTRAP=own_kafka.bootstrap).make_topics(1)
    s.publish(artefact)
    worker = s.worker()
    worker.await_log("partitions_assigned")
    s.send_rows(normal_rows(500, rng))
    own_kafka.kill()
    time.sleep(3)
    begun = time.monotonic()
    assert worker.stop() == 0
    assert time.monotonic() - begun < 10
