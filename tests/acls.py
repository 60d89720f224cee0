"""The rights that docs/security.md grants, as Kafka takes them."""

from contextlib import closing
from pathlib import Path

from kafka import KafkaAdminClient
from kafka.admin import ACL, ACLOperation, ACLPermissionType, ACLResourcePatternType, ResourcePattern, ResourceType

from tests.secure import SecureKafka
from tests.stage import Stage
from worker.settings import TopicSettings


def admin(secure: SecureKafka) -> "closing[KafkaAdminClient]":
    return closing(KafkaAdminClient(bootstrap_servers=secure.bootstrap))


def acls(s: Stage) -> list[tuple[ACL, str]]:
    """Those of docs/security.md, with the stage's names for the defaults; and for whom each is."""
    group = s.settings.kafka.group
    defaults = {str(field.default): name for name, field in TopicSettings.model_fields.items()}
    found = []
    for line in (Path(__file__).parents[1] / "docs/security.md").read_text().splitlines():
        cells = [cell.strip().strip("`") for cell in line.strip("|").split("|")]
        if cells[0] not in ("Topic", "Group", "TransactionalId"):
            continue
        kind, told = cells[0], cells[1]
        name = told.rstrip("*")
        if kind == "Topic":
            name = getattr(s.topics, defaults[told])
        elif name.startswith("offnormal.models"):
            name = name.replace("offnormal.models", s.topics.models)
        else:
            name = name.replace("offnormal", group)
        resource = ResourcePattern(
            ResourceType["TRANSACTIONAL_ID" if kind == "TransactionalId" else kind.upper()],
            name,
            ACLResourcePatternType.PREFIXED if told.endswith("*") else ACLResourcePatternType.LITERAL,
        )
        operation = ACLOperation["DESCRIBE_CONFIGS" if cells[2] == "DescribeConfigs" else cells[2].upper()]
        found.append((ACL("User:worker", "*", operation, ACLPermissionType.ALLOW, resource), cells[3]))
    assert len(found) > 10
    return found


def grant(secure: SecureKafka, s: Stage) -> None:
    with admin(secure) as client:
        client.create_acls([right for right, _ in acls(s)])
