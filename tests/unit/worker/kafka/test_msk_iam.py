"""Logins to Amazon MSK. tests/faults/test_logins.py has a door that checks them."""

import datetime
import json
import sys
from pathlib import Path
from unittest import mock

import pytest
from botocore.credentials import Credentials
from kafka.net.sasl.msk import AwsMskIamClient
from pydantic import ValidationError

from tests.iam_door import REGION, signature
from worker.errors import SettingsError
from worker.kafka import login, msk_iam
from worker.kafka.msk_iam import MskIam, NoCredentials, region_of
from worker.settings import KafkaSettings

DATE = "20210818T212511Z"


@pytest.fixture(autouse=True)
def no_credentials(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("AWS_REGION", "AWS_DEFAULT_REGION", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setattr(msk_iam, "_found", None)


def message(host: str, access: str, secret: str, region: str, token: str | None) -> dict[str, str]:
    """What is sent at DATE."""
    with mock.patch("kafka.net.sasl.msk.datetime") as clock:
        clock.datetime.now.return_value = datetime.datetime.strptime(DATE, "%Y%m%dT%H%M%SZ")
        told: dict[str, str] = json.loads(AwsMskIamClient(host, access, secret, region, token).first_message())
    return told


@pytest.mark.parametrize(
    ("token", "signed"),
    [
        (None, "0fa42ae3d5693777942a7a4028b564f0b372bafa2f71c1a19ad60680e6cb994b"),
        ("XXXXX", "b0619c50b7ecb4a7f6f92bd5f733770df5710e97b25146f97015c0b1db783b05"),
    ],
)
def test_the_signature_is_the_published_one(token: str | None, signed: str) -> None:
    """The values are those of kafka-python's own tests."""
    assert message("localhost", "X" * 20, "X" * 40, "us-east-1", token)["x-amz-signature"] == signed


@pytest.mark.parametrize("token", [None, "a/b+c=="])
def test_the_signature_is_that_of_botocore(token: str | None) -> None:
    host = f"b-1.plant.abc123.c2.kafka.{REGION}.amazonaws.com"
    told = message(host, "AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY", REGION, token)
    credentials = Credentials("AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY", token)
    assert told["x-amz-signature"] == signature(host, credentials, DATE)
    assert told["host"] == host


def test_the_region_is_told_or_in_the_name(monkeypatch: pytest.MonkeyPatch) -> None:
    assert region_of("b-1.plant.abc123.c2.kafka.us-gov-west-1.amazonaws.com") == "us-gov-west-1"
    assert region_of("boot-1.kafka-serverless.ap-southeast-2.amazonaws.com") == "ap-southeast-2"
    with pytest.raises(NoCredentials, match="AWS_REGION"):
        region_of("broker.example.com")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-west-1")
    assert region_of("broker.example.com") == "eu-west-1"
    monkeypatch.setenv("AWS_REGION", "eu-west-2")
    assert region_of("broker.example.com") == "eu-west-2"
    assert region_of("b-1.plant.abc123.c2.kafka.us-east-1.amazonaws.com") == "us-east-1"


def test_credentials_are_looked_for_again_until_there_are_some(monkeypatch: pytest.MonkeyPatch) -> None:
    made = MskIam(host=f"b-1.kafka.{REGION}.amazonaws.com", security_protocol="SASL_SSL")
    with pytest.raises(NoCredentials, match="no credentials of AWS are found"):
        made.auth_bytes()
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKID")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    told = json.loads(made.auth_bytes())
    assert told["x-amz-credential"].startswith("AKID/") and "secret" not in str(told)


def test_what_it_needs_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValidationError, match="SASL_SSL"):
        KafkaSettings(security_protocol="SASL_PLAINTEXT", sasl_mechanism="AWS_MSK_IAM")
    settings = KafkaSettings(security_protocol="SASL_SSL", sasl_mechanism="AWS_MSK_IAM")
    assert login.login(settings) == {"sasl_mechanism": "AWS_MSK_IAM"}
    monkeypatch.setitem(sys.modules, "botocore.session", None)
    with pytest.raises(SettingsError, match=r"offnormal\[msk\]"):
        login.login(settings)
