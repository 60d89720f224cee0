"""Tools that are not Python's: taken from PATH, or else fetched once into a cache."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import pytest

from tests import kerberos

CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "offnormal"
HELM = "v3.19.2"
# Schemas of the kinds of KEDA, of Prometheus's operator and of Strimzi's.
CRDS = (
    "@kubernetes-models/keda@2.0.0",
    "@kubernetes-models/prometheus-operator@6.0.0",
    "@kubernetes-models/strimzi-kafka-operator@1.0.1",
)
PARSER = ("@asyncapi/parser@3.6.6", "@asyncapi/avro-schema-parser@3.1.0")
APICURIO = "2.6.13.Final"  # the last that Java 17 runs
AXE = "axe-core@4.10.3"
GSSAPI = "1.12.0"


def helm() -> Path:
    """Built by Go's module proxy, where it is not installed: some minutes, once."""
    return _found("helm", CACHE / f"helm-{HELM}", lambda to: _go(f"helm.sh/helm/v3/cmd/helm@{HELM}", to))


def prometheus(program: str) -> Path:
    """`prometheus` or `promtool`, out of Debian's package: unpacked, not installed."""
    return _found(program, CACHE / "prometheus" / "usr" / "bin", lambda _: _deb("prometheus", CACHE / "prometheus"))


def crds() -> Path:
    """A folder where node finds them."""
    return _npm("crds", *CRDS)


def asyncapi_parser() -> Path:
    """A folder where node finds it."""
    return _npm("asyncapi", *PARSER)


def apicurio() -> Path:
    """The jar of a schema registry."""
    folder = CACHE / f"apicurio-{APICURIO}"
    if not folder.exists():
        if shutil.which("mvn") is None or shutil.which("java") is None:
            _missing("Java, with mvn,")
        parts = folder.with_suffix(".parts")
        shutil.rmtree(parts, ignore_errors=True)
        artifact = f"io.apicurio:apicurio-registry-app:{APICURIO}:tar.gz:all"
        to = [f"-Dartifact={artifact}", f"-DoutputDirectory={parts}"]
        _run(["mvn", "-q", "-B", "org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy", *to], Path("/"))
        _run(["tar", "xzf", str(next(parts.glob("*.tar.gz"))), "-C", str(parts)], parts)
        next(parts.glob("*.tar.gz")).unlink()
        parts.rename(folder)
    return next(folder.glob("*-runner.jar"))


def axe() -> Path:
    """What finds what keeps people out: a script, to be run in the page that it looks at."""
    return _npm("axe", AXE) / "node_modules" / "axe-core" / "axe.min.js"


def chromium() -> Path:
    """Debian's: with CI=true it is installed where it is missing, for what it needs comes with it."""
    if shutil.which("chromium") is None:
        if not os.environ.get("CI") or os.geteuid() or shutil.which("apt-get") is None:
            _missing("chromium (apt-get install chromium)")
        _run(["apt-get", "install", "--yes", "--no-install-recommends", "chromium"], Path("/"))
    return Path(shutil.which("chromium") or _missing("chromium"))


def gssapi() -> Path:
    """A folder where Python finds gssapi, compiled here, beside Debian's Kerberos; both installed as chromium is."""
    if not kerberos.is_there() or shutil.which("krb5-config") is None:
        if not os.environ.get("CI") or os.geteuid() or shutil.which("apt-get") is None:
            _missing("Kerberos (apt-get install krb5-kdc krb5-admin-server libkrb5-dev)")
        packages = ["krb5-kdc", "krb5-admin-server", "libkrb5-dev"]
        command = ["apt-get", "install", "--yes", "--no-install-recommends", *packages]
        _run(command, Path("/"), DEBIAN_FRONTEND="noninteractive")
    folder = CACHE / f"gssapi-{GSSAPI}-{sys.version_info.major}.{sys.version_info.minor}"
    if not folder.exists():
        parts = folder.with_name(f"{folder.name}.parts")
        uv = Path(sys.executable).with_name("uv")
        _run([str(uv), "pip", "install", "--target", str(parts), f"gssapi=={GSSAPI}"], Path("/"))
        parts.rename(folder)
    return folder


def _npm(name: str, *packages: str) -> Path:
    if shutil.which("npm") is None:
        _missing("npm")
    folder = CACHE / f"{name}-{'-'.join(package.rpartition('@')[2] for package in packages)}"
    if not (folder / "node_modules").exists():
        folder.mkdir(parents=True, exist_ok=True)
        _run(["npm", "install", "--no-audit", "--no-fund", *packages], folder)
    return folder


def _found(program: str, folder: Path, fetch: Callable[[Path], None]) -> Path:
    on_path = shutil.which(program)
    if on_path is not None:
        return Path(on_path)
    if not (folder / program).exists():
        fetch(folder)
    return folder / program


def _go(package: str, to: Path) -> None:
    if shutil.which("go") is None:
        _missing("helm, or go to build it,")
    _run(["go", "install", package], Path("/"), GOBIN=str(to), GOFLAGS="-mod=mod")


def _deb(package: str, to: Path) -> None:
    if shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None:
        _missing(f"{package}, or Debian to take it from,")
    to.mkdir(parents=True, exist_ok=True)
    _run(["apt-get", "download", package], to)
    _run(["dpkg-deb", "-x", str(max(to.glob("*.deb"))), str(to)], to)


def _run(command: list[str], folder: Path, **environment: str) -> None:
    done = subprocess.run(command, cwd=folder, env=os.environ | environment, capture_output=True, text=True)
    if done.returncode:
        _missing(f"{' '.join(command)} failed: {done.stderr[-500:]}:")


def _missing(what: str) -> NoReturn:
    (pytest.fail if os.environ.get("CI") else pytest.skip)(f"{what} is not to be had here")
    raise AssertionError  # neither comes back
