"""How a client logs in: kafka-python's options for each SASL mechanism."""

from typing import Any

from worker.kafka import kerberos, msk_iam
from worker.kafka.oauth import token_provider
from worker.settings import KafkaSettings


def login(settings: KafkaSettings) -> dict[str, Any]:
    """Return the options. Raises SettingsError where the mechanism needs an extra that is not installed."""
    if not settings.security_protocol.startswith("SASL"):
        return {}
    mechanism = {"sasl_mechanism": settings.sasl_mechanism}
    match settings.sasl_mechanism:
        case "OAUTHBEARER":
            return mechanism | {"sasl_oauth_token_provider": token_provider(settings)}
        case "AWS_MSK_IAM":
            msk_iam.use()
            return mechanism
        case "GSSAPI":
            kerberos.use()
            return mechanism | {"sasl_kerberos_service_name": settings.kerberos_service}
        case _:
            assert settings.password is not None
            return mechanism | {
                "sasl_plain_username": settings.username,
                "sasl_plain_password": settings.password.get_secret_value(),
            }
