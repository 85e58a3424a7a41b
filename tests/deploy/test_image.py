"""What an engine would do with the Dockerfile and the compose file, as far as that shows here."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML
from typer.main import get_command

from gateway.cli import command_line
from gateway.profiles import ENVIRONMENT, profile
from gateway.settings import UPSTREAM_KEY
from tests.gateway.harness import guarded, nobody

ROOT = Path(__file__).parents[2]
DOCKERFILE = ROOT / "deploy" / "Dockerfile"


def instructions() -> list[tuple[str, str]]:
    """(name, rest) of each instruction, comments left out and lines joined."""
    rows = [row for row in DOCKERFILE.read_text().splitlines() if not row.startswith("#")]
    joined = "\n".join(rows).replace("\\\n", " ")
    return [(name, rest) for name, _, rest in (r.partition(" ") for r in joined.splitlines() if r)]


def of(name: str) -> list[str]:
    return [rest for found, rest in instructions() if found == name]


def compose() -> Any:
    return YAML(typ="safe").load(ROOT / "deploy" / "compose.yaml")


def test_the_image_runs_as_nobody_in_particular() -> None:
    (user,) = of("USER")
    assert re.fullmatch(r"[1-9]\d{3,}:[1-9]\d{3,}", user)
    names = [name for name, _ in instructions()]
    assert names.index("USER") > max(i for i, name in enumerate(names) if name in ("COPY", "RUN"))


def test_no_shell_is_involved() -> None:
    for command in [*of("RUN"), *of("ENTRYPOINT"), *of("CMD")]:
        assert all(isinstance(word, str) for word in json.loads(command))


def test_everything_copied_is_there_and_not_ignored() -> None:
    wanted = {
        source
        for copy in of("COPY")
        if not copy.startswith("--from")
        for source in copy.split()[:-1]
    }
    ignore = (ROOT / ".dockerignore").read_text().splitlines()
    kept = {row[1:] for row in ignore if row.startswith("!")}
    assert "*" in ignore
    assert wanted == kept
    assert all((ROOT / source).exists() for source in wanted)
    packages = re.search(r"packages = (\[.*\])", (ROOT / "pyproject.toml").read_text())
    assert packages is not None
    assert set(json.loads(packages[1])) <= wanted


def test_the_image_is_built_with_the_developers_uv() -> None:
    pinned = re.findall(r"uv==[\d.]+", (ROOT / "Makefile").read_text())
    assert len(set(pinned)) == 1
    assert pinned[0] in of("RUN")[0]
    syncs = [json.loads(run) for run in of("RUN")[1:]]
    assert all(run[:4] == ["uv", "sync", "--locked", "--no-dev"] for run in syncs)


@pytest.mark.parametrize("where", ["Dockerfile", "compose.yaml"])
def test_the_health_check_tells_alive_from_dead(where: str) -> None:
    if where == "Dockerfile":
        (check,) = of("HEALTHCHECK")
        words = json.loads(check.partition("CMD ")[2])
    else:
        words = compose()["services"]["gateway"]["healthcheck"]["test"][1:]
    (shown,) = of("EXPOSE")
    assert f"127.0.0.1:{shown}/" in words[2]

    def status(root: str) -> int:
        code = words[2].replace(f"http://127.0.0.1:{shown}", root)
        command = [sys.executable, words[1], code]
        return subprocess.run(command, stderr=subprocess.DEVNULL, check=False).returncode

    with guarded(ready=False) as gate:
        assert status(gate.root) == 0
    assert status(nobody()) != 0


def test_vllm_is_reached_by_the_gateway_alone() -> None:
    services, networks = compose()["services"], compose()["networks"]
    vllm, gateway = services["vllm"], services["gateway"]
    assert vllm["networks"] == ["inside"]
    assert networks["inside"] == {"internal": True}
    assert "ports" not in vllm
    assert all(port.startswith("127.0.0.1:") for port in gateway["ports"])
    assert vllm["environment"].items() >= ENVIRONMENT.items()
    assert vllm["environment"]["VLLM_API_KEY"] == gateway["environment"][UPSTREAM_KEY]
    assert gateway["depends_on"] == {"vllm": {"condition": "service_healthy"}}


def test_the_gateway_has_no_rights_to_lose() -> None:
    gateway = compose()["services"]["gateway"]
    assert gateway["read_only"] is True
    assert gateway["cap_drop"] == ["ALL"]
    assert gateway["security_opt"] == ["no-new-privileges:true"]
    assert gateway["tmpfs"] == ["/tmp"]
    assert "user" not in gateway  # the image's


def test_the_gateways_options_are_those_of_serve() -> None:
    name, *options = compose()["services"]["gateway"]["command"]
    context = get_command(command_line([name])).make_context("mlrm-guard", [name, *options])
    group = context.command
    assert isinstance(group.get_params(context), list)
    serve = group.get_command(context, name)  # type: ignore[attr-defined]
    parsed = serve.make_context(name, options).params
    secrets = compose()["services"]["gateway"]["secrets"]
    assert str(parsed["keys"]) == f"/run/secrets/{secrets[0]}"
    assert parsed["upstream"] == "http://vllm:8000/v1"
    copied = [copy.split() for copy in of("COPY")]
    assert ["deploy/policies", str(parsed["policy"].parent)] in copied
    assert (ROOT / "deploy" / "policies" / parsed["policy"].name).is_file()


def test_vllm_is_started_by_its_profile() -> None:
    services = compose()["services"]
    command = services["vllm"]["command"]
    assert services["vllm"]["entrypoint"] == ["vllm", "serve"]
    words = [word for row in command for word in row.split("=", 1)]
    assert words == profile(command[0], host="0.0.0.0").arguments[1:]
    assert services["fetch"]["command"] == [command[0]]


def test_every_file_and_name_that_compose_mentions_is_there() -> None:
    whole = compose()
    for service in whole["services"].values():
        assert set(service["networks"]) <= set(whole["networks"])
        assert set(service.get("secrets", [])) <= set(whole["secrets"])
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            if source.startswith("."):
                assert (ROOT / "deploy" / source).exists()
            else:
                assert source in whole["volumes"]


def test_prometheus_scrapes_what_compose_starts() -> None:
    jobs = YAML(typ="safe").load(ROOT / "deploy" / "prometheus.yaml")["scrape_configs"]
    targets = {job["static_configs"][0]["targets"][0] for job in jobs}
    assert targets == {"gateway:8080", "vllm:8000"}
    (key,) = compose()["services"]["prometheus"]["secrets"]
    assert jobs[0]["authorization"]["credentials_file"] == f"/run/secrets/{key}"
