"""Logins to Amazon MSK by IAM (AWS_MSK_IAM): kafka-python signs, botocore finds the credentials.

kafka-python would look for the credentials anew for each connection, without a short limit, and in the thread that
serves all of a client's connections. Here one botocore session serves the process: it keeps the credentials, and renews
them ten to fifteen minutes before they expire.
"""

import os
import re
import threading
from typing import Any, Final

from kafka import errors
from kafka.net.sasl import register_sasl_mechanism
from kafka.net.sasl.msk import AwsMskIamClient, SaslMechanismAwsMskIam

from worker.errors import SettingsError

TIMEOUT: Final = 3.0  # seconds that one request for credentials may take
_REGION: Final = re.compile(r"\.([a-z]{2}(?:-[a-z]+)+-\d)\.amazonaws\.com")  # in the name of a broker of MSK


class NoCredentials(errors.KafkaConnectionError):  # type: ignore[misc]
    """There are no credentials, so there is no connection: kafka-python tries again, as after a broker that is away."""


class MskIam(SaslMechanismAwsMskIam):  # type: ignore[misc]
    """Authenticates one connection."""

    def _build_client(self) -> AwsMskIamClient:
        """Return what signs for the broker at `host`. Raises NoCredentials."""
        credentials = _credentials()
        return AwsMskIamClient(
            self.host, credentials.access_key, credentials.secret_key, region_of(self.host), credentials.token
        )


def use() -> None:
    """Let kafka-python use this for AWS_MSK_IAM. Raises SettingsError without botocore."""
    try:
        import botocore.session  # noqa: F401  # an extra
    except ImportError:
        raise SettingsError(
            "OFFNORMAL_KAFKA__SASL_MECHANISM=AWS_MSK_IAM needs botocore: pip install offnormal[msk]"
        ) from None
    register_sasl_mechanism("AWS_MSK_IAM", MskIam, overwrite=True)


def region_of(host: str) -> str:
    """Return the region to sign for: the one in the broker's name, else that of the environment. Raises NoCredentials.

    A broker's name is that of MSK, or behind a private link any other. The environment has the region of the pod.
    """
    of_environment = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    named = _REGION.search(host)
    if not of_environment and not named:
        raise NoCredentials(f"error: the name {host} has no region of AWS in it; set AWS_REGION")
    return named[1] if named else of_environment or ""


_lock = threading.Lock()
_found: Any = None  # botocore's credentials, which renew themselves


def _credentials() -> Any:
    """Return the credentials as they are now: access_key, secret_key and token. Raises NoCredentials."""
    global _found  # noqa: PLW0603  # one session for all clients of the process
    from botocore.config import Config
    from botocore.exceptions import BotoCoreError, ClientError
    from botocore.session import Session

    try:
        with _lock:
            if _found is None:
                session = Session()
                limits = Config(connect_timeout=TIMEOUT, read_timeout=TIMEOUT, retries={"total_max_attempts": 1})
                session.set_default_client_config(limits)
                _found = session.get_credentials()
            if _found is not None:
                return _found.get_frozen_credentials()
    except (BotoCoreError, ClientError) as error:
        reason = " ".join(str(error).split())[:200]
        raise NoCredentials(f"error: no credentials of AWS: {reason}") from None
    raise NoCredentials(
        "error: no credentials of AWS are found: not in the environment, not in files, no role of this pod or machine"
    )
