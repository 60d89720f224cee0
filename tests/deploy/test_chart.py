"""What the chart makes of its values is sound for three releases of Kubernetes, and says what it should."""

import json
import subprocess

import kubernetes_validate
import pytest
import yaml

from tests.deploy.chart import (
    CHART,
    MATRIX,
    SECURED,
    STRIMZI,
    TOKEN,
    WATCHED,
    Document,
    one,
    pod,
    pods,
    render,
    template,
)
from tests.deploy.tools import crds, helm
from worker.kafka.topics import specs
from worker.settings import Settings

KUBERNETES = ("1.31.0", "1.33.0", "1.35.0")
OTHERS = {  # kind -> where node finds its class
    "ScaledObject": "keda/keda.sh/v1alpha1",
    "TriggerAuthentication": "keda/keda.sh/v1alpha1",
    "PodMonitor": "prometheus-operator/monitoring.coreos.com/v1",
    "PrometheusRule": "prometheus-operator/monitoring.coreos.com/v1",
    "KafkaTopic": "strimzi-kafka-operator/kafka.strimzi.io/v1",
    "KafkaUser": "strimzi-kafka-operator/kafka.strimzi.io/v1",
}


def test_helm_finds_nothing_to_say() -> None:
    done = subprocess.run(
        [str(helm()), "lint", "--strict", str(CHART), "--kube-version", "1.33.0"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "[WARNING]" not in done.stdout and "[ERROR]" not in done.stdout


@pytest.mark.parametrize("kube", KUBERNETES)
@pytest.mark.parametrize("name", MATRIX)
def test_manifests_are_what_kubernetes_takes(name: str, kube: str) -> None:
    documents = render(MATRIX[name], kube)
    assert len({(d["kind"], d["metadata"]["name"]) for d in documents}) == len(documents)
    for document in documents:
        if document["kind"] not in OTHERS:
            kubernetes_validate.validate(document, kube.rsplit(".", 1)[0], strict=True)


def _refused(documents: list[Document]) -> list[str]:
    """What the schemas of KEDA, of Prometheus's operator and of Strimzi's have against them."""
    imports = "".join(f"import {{{kind}}} from '@kubernetes-models/{at}';\n" for kind, at in OTHERS.items())
    script = (
        f"{imports}const kinds = {{{', '.join(OTHERS)}}}, refused = [];\n"
        f"for (const d of {json.dumps(documents)}) try {{ new kinds[d.kind](d).validate() }}"
        " catch (e) { refused.push(`${d.kind}: ${e.message}`) }\nconsole.log(JSON.stringify(refused))"
    )
    done = subprocess.run(
        ["node", "--input-type=module", "-"], input=script, cwd=crds(), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    found: list[str] = json.loads(done.stdout)
    return found


def test_operators_take_theirs() -> None:
    documents = [d for values in MATRIX.values() for d in render(values) if d["kind"] in OTHERS]
    assert {d["kind"] for d in documents} == set(OTHERS)
    assert _refused(documents) == []
    broken = json.loads(json.dumps(one(documents, "PodMonitor")))
    del broken["spec"]["selector"]
    assert _refused([broken]), "the check can fail"


@pytest.mark.parametrize("name", MATRIX)
def test_every_pod_has_few_rights(name: str) -> None:
    found = pods(render(MATRIX[name]))
    assert len(found) >= 2
    for spec in found:
        assert spec["automountServiceAccountToken"] is False and spec["enableServiceLinks"] is False
        assert spec["securityContext"]["runAsNonRoot"] and spec["securityContext"]["runAsUser"] > 0
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in spec["containers"]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
            assert "/tmp" in {mount["mountPath"] for mount in container["volumeMounts"]}, "something to write to"


def test_static_members_have_stable_names_and_outlive_a_restart() -> None:
    documents = render({})
    worker = one(documents, "StatefulSet")
    env = {e["name"]: e for e in pod(worker)["containers"][0]["env"]}
    assert env["OFFNORMAL_KAFKA__INSTANCE_ID"]["valueFrom"]["fieldRef"]["fieldPath"] == "metadata.name"
    assert worker["spec"]["serviceName"] == one(documents, "Service")["metadata"]["name"]
    assert worker["spec"]["podManagementPolicy"] == "Parallel", "a worker without a model must not hold up the others"
    told = yaml.safe_load(one(documents, "ConfigMap", "plant-offnormal")["data"]["settings.yaml"])
    assert told["kafka"]["session_timeout"] == "45s"
    leaves = pod(one(documents, "Job", "-leave"))["containers"][0]["args"]
    assert leaves[:4] == ["leave", worker["metadata"]["name"], "--keep", "2"]
    dynamic = render({"worker": {"membership": "dynamic"}})
    assert not [
        d for d in dynamic if d["kind"] in ("StatefulSet", "Service") or d["metadata"]["name"].endswith("leave")
    ]
    assert "INSTANCE_ID" not in json.dumps(dynamic) and "session_timeout" not in json.dumps(dynamic)


def test_it_is_not_killed_while_it_drains() -> None:
    assert pod(one(render({}), "StatefulSet"))["terminationGracePeriodSeconds"] > 10


def test_a_training_that_was_refused_is_not_tried_again_at_once() -> None:
    cron = one(render({"training": {"mode": "cron"}}), "CronJob")
    assert cron["spec"]["concurrencyPolicy"] == "Forbid"
    (rule,) = cron["spec"]["jobTemplate"]["spec"]["podFailurePolicy"]["rules"]
    assert rule["action"] == "FailJob" and {3, 5} <= set(rule["onExitCodes"]["values"])
    served = render({})
    assert not [d for d in served if d["kind"] == "CronJob"]
    assert yaml.safe_load(one(served, "ConfigMap", "plant-offnormal")["data"]["settings.yaml"])["training"]["schedule"]


def test_changed_settings_restart_the_pods() -> None:
    def told(values: Document) -> str:
        return str(
            one(render(values), "StatefulSet")["spec"]["template"]["metadata"]["annotations"]["offnormal/settings"]
        )

    assert told({}) != told({"settings": {"detection": {"false_alarm_rate": 0.01}}})
    assert told({}) == told({"worker": {"replicas": 5}})


def test_an_autoscaler_owns_the_number_of_workers() -> None:
    for scaled in ("keda", "hpa, dynamic"):
        documents = render(MATRIX[scaled])
        kind = "StatefulSet" if scaled == "keda" else "Deployment"
        worker = one(documents, kind, "-worker")
        assert "replicas" not in worker["spec"]
        target = next(d["spec"]["scaleTargetRef"] for d in documents if "scaleTargetRef" in d.get("spec", {}))
        assert (target["kind"], target["name"]) == (kind, worker["metadata"]["name"])
    keda = one(render(MATRIX["keda, secured"]), "ScaledObject")
    (trigger,) = keda["spec"]["triggers"]
    assert trigger["metadata"] == {
        "bootstrapServers": "kafka:9093",
        "consumerGroup": "offnormal",
        "topic": "offnormal.sensors",
        "lagThreshold": "500000",
        "allowIdleConsumers": "false",
        "sasl": "scram_sha512",
        "tls": "enable",
    }
    both = {"autoscaling": {"keda": {"enabled": True}, "hpa": {"enabled": True}}}
    assert "not both" in template(both).stderr


def test_a_gpu_is_asked_for_where_it_is_used() -> None:
    documents = render(MATRIX["gpu"])
    for kind, suffix in (("StatefulSet", "-worker"), ("Deployment", "-training")):
        (container,) = pod(one(documents, kind, suffix))["containers"]
        assert container["resources"]["limits"]["nvidia.com/mig-1g.10gb"] == 1
        assert container["resources"]["limits"]["memory"], "beside the other limits"
        assert {"name": "OFFNORMAL_DEVICE", "value": "cuda"} in container["env"]
    assert "nvidia" not in json.dumps(render({}))


def test_credentials_come_from_the_secret_alone() -> None:
    (container,) = pod(one(render(SECURED), "StatefulSet"))["containers"]
    env = {e["name"]: e for e in container["env"]}
    assert env["OFFNORMAL_KAFKA__USERNAME"]["valueFrom"]["secretKeyRef"] == {"name": "kafka", "key": "user"}
    for name, file in (
        ("KAFKA__PASSWORD_FILE", "password"),
        ("KAFKA__CA_FILE", "ca.crt"),
        ("KAFKA__CERT_FILE", "tls.crt"),
        ("KAFKA__KEY_FILE", "tls.key"),
        ("MODEL__SIGNING_KEY_FILE", "signing"),
        ("HTTP__TOKEN_FILE", "page"),
        ("SCHEMA_REGISTRY__PASSWORD_FILE", "registry"),
        ("SCHEMA_REGISTRY__CA_FILE", "registry.crt"),
    ):
        assert env[f"OFFNORMAL_{name}"]["value"] == f"/etc/offnormal-credentials/{file}"
    assert "credentials.secret" in template({"credentials": {"usernameKey": "user"}}).stderr


def test_a_projected_token_is_in_every_pod() -> None:
    documents = render(TOKEN)
    assert one(documents, "ServiceAccount")["metadata"]["annotations"] == {"plant.example/role": "scorer"}
    for spec in pods(documents):
        assert "token" in {volume["name"] for volume in spec["volumes"]}
        mounts = [mount for container in spec["containers"] for mount in container["volumeMounts"]]
        assert "/var/run/kafka" in {mount["mountPath"] for mount in mounts}
    done = template(TOKEN | {"autoscaling": {"keda": {"enabled": True}}})
    assert done.returncode != 0 and "not settings.kafka.sasl_mechanism OAUTHBEARER" in done.stderr


@pytest.mark.parametrize(
    ("values", "page"),
    [
        ({}, False),  # all pods of the cluster reach the port
        ({"settings": {"http": {"port": 8081}}}, False),
        ({"networkPolicy": {"enabled": False}}, False),
        (SECURED, True),
        (MATRIX["page without a token"], True),
        ({**SECURED, "settings": {"http": {"page": False}}}, False),
    ],
)
def test_there_is_no_page_without_a_token_unless_it_is_asked_for(values: Document, page: bool) -> None:
    told = yaml.safe_load(one(render(values), "ConfigMap", "plant-offnormal")["data"]["settings.yaml"])
    assert told.get("http", {}).get("page", True) is page
    assert told.get("http", {}).get("port") == values.get("settings", {}).get("http", {}).get("port")
    held = Settings.model_validate({"http": told.get("http", {})})
    assert held.http.page is page


def test_what_is_watched_is_what_the_repository_has() -> None:
    documents = render(WATCHED)
    rules = one(documents, "PrometheusRule")["spec"]
    assert rules == yaml.safe_load((CHART / "files/alerts.yaml").read_text())
    dashboard = one(documents, "ConfigMap", "-dashboard")["data"]["offnormal.json"]
    assert json.loads(dashboard) == json.loads((CHART / "files/dashboard.json").read_text())


@pytest.mark.parametrize(
    "values",
    [
        {"worker": {"replica": 3}},
        {"worker": {"replicas": "many"}},
        {"worker": {"membership": "sometimes"}},
        {"training": {"mode": "never"}},
        {"settings": {"kafka": {"bootstrp": "a"}}},
        {"settings": {"kafak": {}}},
        {"topics": {"partitions": 0}},
    ],
)
def test_a_misspelt_value_is_refused(values: Document) -> None:
    done = template(values)
    assert done.returncode != 0 and "don't meet the specifications of the schema" in done.stderr


def test_strimzi_makes_the_topics_that_the_settings_need() -> None:
    documents = render(STRIMZI | {"strimzi": STRIMZI["strimzi"] | {"sensors": True}})
    made = {
        d["spec"]["topicName"]: (d["spec"]["partitions"], {k: str(v) for k, v in d["spec"]["config"].items()})
        for d in documents
        if d["kind"] == "KafkaTopic"
    }
    needed = specs(Settings.model_validate(STRIMZI["settings"]))
    assert made == {spec.name: (spec.partitions or 12, spec.config) for spec in needed}
    assert not [d for d in documents if d["kind"] == "Job" and d["metadata"]["name"].endswith("-topics")]
    assert "plant.vectors" not in str([d for d in render(STRIMZI) if d["kind"] == "KafkaTopic"]), "it is the plant's"


@pytest.mark.parametrize("sensors", ["north, south", ["north", "south"], '["north", "south"]'])
def test_several_topics_are_as_the_worker_reads_them(sensors: object) -> None:
    told = {"settings": {"topics": {"sensors": sensors}}}
    documents = render(STRIMZI | told | {"strimzi": STRIMZI["strimzi"] | {"sensors": True}})
    made = {d["spec"]["topicName"] for d in documents if d["kind"] == "KafkaTopic"}
    assert made == {spec.name for spec in specs(Settings.model_validate(told["settings"]))} >= {"north", "south"}
    rights = {acl["resource"]["name"] for acl in one(documents, "KafkaUser")["spec"]["authorization"]["acls"]}
    assert {"north", "south"} <= rights
    keda = one(render(MATRIX["keda, secured"] | told), "ScaledObject")
    assert "topic" not in keda["spec"]["triggers"][0]["metadata"], "the lag of all topics of the group"


def test_the_rights_of_a_pattern_are_those_of_a_prefix() -> None:
    told = STRIMZI | {"settings": {"topics": {"sensors": "^plant-.*"}}}
    done = template(told)
    assert done.returncode != 0 and "strimzi.sensorsPrefix" in done.stderr
    documents = render(told | {"strimzi": STRIMZI["strimzi"] | {"sensorsPrefix": "plant-", "sensors": True}})
    acls = one(documents, "KafkaUser")["spec"]["authorization"]["acls"]
    resource = {"type": "topic", "name": "plant-", "patternType": "prefix"}
    assert {"resource": resource, "operations": ["Read", "Describe", "DescribeConfigs"]} in acls
    assert not [d for d in documents if d["kind"] == "KafkaTopic" and "plant" in d["spec"]["topicName"]]


def test_strimzi_reads_outputs_as_the_worker_does() -> None:
    for outputs in ("", "scores, latents", '["scores"]', ["scores", "latents"]):
        told = {"outputs": outputs, "model": {"shadow_share": "0"}, "input": {"shape": "sparkplug", "step": "1s"}}
        made = {d["spec"]["topicName"] for d in render(STRIMZI | {"settings": told}) if d["kind"] == "KafkaTopic"}
        needed = {spec.name for spec in specs(Settings.model_validate(told))} - {"offnormal.sensors"}
        assert made == needed, outputs
    done = template(STRIMZI | {"settings": {"outputs": ["score"]}})
    assert done.returncode != 0 and "score is no output" in done.stderr


def test_strimzis_user_has_the_rights_of_the_documentation() -> None:
    """Those of workers and training, for each topic that the settings need, and no more."""
    acls = one(render({"strimzi": STRIMZI["strimzi"]}), "KafkaUser")["spec"]["authorization"]["acls"]
    made = set()
    for acl in acls:
        told = acl["resource"]
        name = told["name"] + "*" * (told["patternType"] == "prefix")
        kind = told["type"][0].upper() + told["type"][1:]
        made |= {(kind, name, operation) for operation in acl["operations"]}
    needed, known = set(), set()
    for line in (CHART.parents[2] / "docs/security.md").read_text().splitlines():
        cells = [cell.strip().strip("`") for cell in line.strip("|").split("|")]
        if cells[0] in ("Topic", "Group", "TransactionalId"):
            known.add(tuple(cells[:3]))
            if any(word in cells[3] for word in ("worker", "training", "whoever", "leave")) and cells[3] != "replay":
                needed.add(tuple(cells[:3]))
    needed -= {("Topic", f"offnormal.{name}", "Write") for name in ("scores", "shadow", "births")}  # not with these
    needed -= {("Topic", "offnormal.births", "Read")}
    assert len(needed) >= 20 and needed <= made
    assert {each for each in made if not each[2].startswith("Describe")} <= known


def test_the_schema_knows_the_settings() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())["properties"]["settings"]
    sections = {
        name: sorted(field.annotation.model_fields)  # type: ignore[union-attr]
        for name, field in Settings.model_fields.items()
        if hasattr(field.annotation, "model_fields")
    }
    assert set(schema["properties"]) == set(Settings.model_fields)
    for name, known in sections.items():
        section = schema["properties"][name]
        files = {f"{key}_file" for key in known if f"{key}_file" in section["properties"]}
        assert set(section["properties"]) == set(known) | files and section["additionalProperties"] is False
