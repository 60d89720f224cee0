"""The chart, rendered."""

import subprocess
from pathlib import Path
from typing import Any

import yaml

from tests.deploy.tools import helm

CHART = Path(__file__).parents[2] / "deploy/helm/offnormal"
Document = dict[str, Any]

SECURED = {
    "settings": {
        "kafka": {"bootstrap": "kafka:9093", "security_protocol": "SASL_SSL", "sasl_mechanism": "SCRAM-SHA-512"},
    },
    "credentials": {
        "secret": "kafka",
        "usernameKey": "user",
        "passwordKey": "password",
        "caKey": "ca.crt",
        "certKey": "tls.crt",
        "keyKey": "tls.key",
        "signingKey": "signing",
        "pageToken": "page",
        "registryPassword": "registry",
        "registryCa": "registry.crt",
    },
}
TOKEN = {  # a projected token of Kubernetes, for OAUTHBEARER
    "settings": {
        "kafka": {
            "bootstrap": "kafka:9093",
            "security_protocol": "SASL_SSL",
            "sasl_mechanism": "OAUTHBEARER",
            "oauth_token_file": "/var/run/kafka/token",
        },
    },
    "serviceAccount": {"annotations": {"plant.example/role": "scorer"}},
    "extraVolumes": [
        {"name": "token", "projected": {"sources": [{"serviceAccountToken": {"path": "token", "audience": "kafka"}}]}}
    ],
    "extraVolumeMounts": [{"name": "token", "mountPath": "/var/run/kafka", "readOnly": True}],
}
WATCHED = {
    "metrics": {"podMonitor": {"enabled": True}, "prometheusRule": {"enabled": True}, "dashboard": {"enabled": True}}
}
STRIMZI = {
    "settings": {
        "kafka": {"group": "line-3"},
        "model": {"shadow_share": 0.1},
        "topics": {"sensors": "plant.vectors"},
        "outputs": ["scores", "latents"],
    },
    "strimzi": {"enabled": True, "cluster": "plant", "user": "line-3"},
    "topics": {"partitions": 12},
}
MATRIX: dict[str, Document] = {
    "default": {},
    "dynamic": {"worker": {"membership": "dynamic"}},
    "gpu": {
        "gpu": {"enabled": True, "training": True, "runtimeClassName": "nvidia", "resource": "nvidia.com/mig-1g.10gb"}
    },
    "cron": {"training": {"mode": "cron"}},
    "no training, no topics": {"training": {"mode": "none"}, "topics": {"create": False}},
    "keda": {"autoscaling": {"keda": {"enabled": True}}},
    "keda, secured": {"autoscaling": {"keda": {"enabled": True}}, **SECURED},
    "hpa, dynamic": {"autoscaling": {"hpa": {"enabled": True}}, "worker": {"membership": "dynamic"}},
    "secured": SECURED,
    "token": TOKEN,
    "strimzi": STRIMZI,
    "watched": WATCHED,
    "page without a token": {"settings": {"http": {"page": True, "hosts": ["worker.plant.example"]}}},
    "bare": {"podDisruptionBudget": {"enabled": False}, "networkPolicy": {"enabled": False}},
    "closed": {"networkPolicy": {"metricsFrom": [], "kafkaTo": [{"podSelector": {"matchLabels": {"app": "kafka"}}}]}},
    "placed": {
        "imagePullSecrets": [{"name": "pull"}],
        "worker": {
            "nodeSelector": {"disk": "ssd"},
            "tolerations": [{"key": "gpu", "operator": "Exists"}],
            "priorityClassName": "high",
            "podLabels": {"team": "plant"},
            "podAnnotations": {"note": "a"},
            "extraEnv": [{"name": "OFFNORMAL_LOG__LEVEL", "value": "debug"}],
        },
    },
}


def template(values: Document, kube: str = "1.33.0", release: str = "plant") -> subprocess.CompletedProcess[str]:
    command = [str(helm()), "template", release, str(CHART), "--kube-version", kube, "--values", "-"]
    return subprocess.run(command, input=yaml.safe_dump(values), capture_output=True, text=True)


def render(values: Document, kube: str = "1.33.0") -> list[Document]:
    done = template(values, kube)
    assert done.returncode == 0, done.stderr
    return [document for document in yaml.safe_load_all(done.stdout) if document]


def one(documents: list[Document], kind: str, suffix: str = "") -> Document:
    (found,) = [d for d in documents if d["kind"] == kind and d["metadata"]["name"].endswith(suffix)]
    return found


def pod(document: Document) -> Document:
    """The pod's spec of whatever makes pods."""
    spec = document["spec"]
    if document["kind"] == "CronJob":
        spec = spec["jobTemplate"]["spec"]
    found: Document = spec if document["kind"] == "Pod" else spec["template"]["spec"]
    return found


def pods(documents: list[Document]) -> list[Document]:
    return [pod(d) for d in documents if d["kind"] in ("StatefulSet", "Deployment", "Job", "CronJob", "Pod")]
