"""Everything in cluster/ is valid where it is to be used, and agrees with the program."""

import os
import re
import shlex
import subprocess
import sys
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pandas as pd
import pytest
import yaml

import bertbatch
from bertbatch import Job
from bertbatch.cli import app
from tests.helpers import kuberay
from tests.helpers.paths import ROOT

CLUSTER = ROOT / "cluster"
BIN = Path(sys.executable).parent
KUBERNETES = "1.33"
DOCKERFILE = (CLUSTER / "Dockerfile").read_text()


def documents() -> list[Any]:
    """Every resource of the Kubernetes manifests, with the file's name as its id."""
    found = []
    for path in sorted((CLUSTER / "kuberay").glob("*.yaml")):
        for content in yaml.safe_load_all(path.read_text()):
            found.append(pytest.param(content, id=f"{path.stem}-{content['kind']}"))
    return found


def resource(kind: str) -> Any:
    return next(p.values[0] for p in documents() if p.values[0]["kind"] == kind)


def cluster_specs() -> list[Any]:
    return [resource("RayCluster")["spec"], resource("RayJob")["spec"]["rayClusterSpec"]]


def pod_templates(spec: Any) -> list[Any]:
    return [spec["headGroupSpec"]["template"], *(g["template"] for g in spec["workerGroupSpecs"])]


def check(content: Any) -> None:
    """Raises if a resource is not what its API takes."""
    if content["kind"] not in kuberay.SCHEMAS:
        kubernetes_validate.validate(content, KUBERNETES, strict=True)
        return
    jsonschema.validate(content, kuberay.SCHEMAS[content["kind"]])
    spec = content["spec"].get("rayClusterSpec", content["spec"])
    for template in pod_templates(spec):
        pod = {"apiVersion": "v1", "kind": "PodTemplate", "metadata": {}, "template": template}
        kubernetes_validate.validate(pod, KUBERNETES, strict=True)


@pytest.mark.parametrize("content", documents())
def test_kubernetes_takes_the_manifests(content):
    check(content)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (["spec", "authOption"], {}),
        (["spec", "autoscalerOptions", "version"], "v3"),
        (["spec", "workerGroupSpecs", 0, "maxReplica"], 3),
        (["spec", "headGroupSpec", "rayStartParams", "num-cpus"], 0),
        (["spec", "headGroupSpec", "template", "spec", "containers", 0, "imgae"], "x"),
        (["spec", "headGroupSpec", "template", "spec", "volumes", 0, "emptyDir", "medium"], 3),
    ],
)
def test_kubernetes_would_refuse_wrong_manifests(path, value):
    content = resource("RayCluster")
    place = content
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    with pytest.raises((jsonschema.ValidationError, kubernetes_validate.ValidationError)):
        check(content)


def test_one_cluster_and_one_version():
    standing, for_one_job = cluster_specs()
    assert standing == for_one_job
    pins = (ROOT / "constraints.txt").read_text()
    assert f"\nray=={standing['rayVersion']}\n" in pins


def test_images_are_those_that_the_dockerfile_makes():
    targets = set(re.findall(r"^FROM \S+ AS (\w+)", DOCKERFILE, re.M)) - {"base"}
    assert targets == {"cpu", "cuda"}
    images = {f"bertbatch:{bertbatch.__version__}-{target}" for target in targets}
    assert set(re.findall(r"-t (\S+)", DOCKERFILE)) == images
    used = set()
    for spec in cluster_specs():
        for template in pod_templates(spec):
            used |= {container["image"] for container in template["spec"]["containers"]}
    used.add(yaml.safe_load((CLUSTER / "ray-up" / "aws.yaml").read_text())["docker"]["image"])
    assert used == images


def test_head_has_no_work_and_nothing_is_open():
    for spec in cluster_specs():
        assert spec["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
        assert spec["authOptions"] == {"mode": "token"}
        for template in pod_templates(spec):
            pod = template["spec"]
            assert pod["securityContext"]["runAsNonRoot"]
            assert f"--uid {pod['securityContext']['runAsUser']} " in DOCKERFILE
            for container in pod["containers"]:
                mounts = {mount["mountPath"] for mount in container["volumeMounts"]}
                assert "/dev/shm" in mounts
    policy = resource("NetworkPolicy")["spec"]
    ports = {
        port["name"]: port["containerPort"]
        for port in pod_templates(cluster_specs()[0])[0]["spec"]["containers"][0]["ports"]
    }
    assert policy["ingress"][1]["ports"] == [{"protocol": "TCP", "port": ports["dashboard"]}]
    for path in (CLUSTER / "ray-up" / "aws.yaml", CLUSTER / "slurm" / "score.sbatch"):
        assert "RAY_AUTH_MODE=token" in path.read_text()


def run_options() -> set[str]:
    command = next(c for c in app.registered_commands if c.callback.__name__ == "run")
    shown = subprocess.run(
        [sys.executable, "-m", "bertbatch", command.callback.__name__, "--help"],
        capture_output=True, text=True, env={**os.environ, "COLUMNS": "200", "NO_COLOR": "1"},
    ).stdout  # fmt: skip
    return set(re.findall(r"--[a-z-]+", shown))


def test_entrypoint_is_the_program():
    spec = resource("RayJob")["spec"]
    python, script, job, *options = shlex.split(spec["entrypoint"])
    assert python == "python"
    folder = re.search(r"^WORKDIR (/opt/\S+)\nCOPY.*\nCOPY jobs jobs$", DOCKERFILE, re.M)
    assert folder
    assert script == f"{folder[1]}/jobs/score.py"
    mount = next(
        m for m in pod_templates(spec["rayClusterSpec"])[0]["spec"]["containers"][0]["volumeMounts"]
        if m["name"] == "job"
    )  # fmt: skip
    (name,) = resource("ConfigMap")["data"]
    assert job == f"{mount['mountPath']}/{name}"
    assert {word for word in options if word.startswith("--")} <= run_options()
    changes = [options[i + 1] for i, word in enumerate(options) if word == "--set"]
    loaded = Job.build(yaml.safe_load(resource("ConfigMap")["data"][name]), changes=changes)
    gpu = spec["rayClusterSpec"]["workerGroupSpecs"][0]
    assert loaded.runtime.workers == gpu["maxReplicas"]
    assert loaded.runtime.device == "cuda"


def test_nightly_run_comes_from_the_template():
    cron = resource("CronJob")["spec"]
    assert cron["concurrencyPolicy"] == "Forbid"
    pod = cron["jobTemplate"]["spec"]["template"]["spec"]
    container = pod["containers"][0]
    assert {"name": "TZ", "value": cron["timeZone"]} in container["env"]
    template = resource("RayJob")
    assert template["spec"]["suspend"]
    assert f"get rayjob {template['metadata']['name']} " in container["args"][0]
    assert pod["serviceAccountName"] == resource("Role")["metadata"]["name"]
    deadline = cron["jobTemplate"]["spec"]["activeDeadlineSeconds"]
    spec = template["spec"]
    assert deadline >= spec["activeDeadlineSeconds"] + spec["preRunningDeadlineSeconds"]


def test_scripts_pass_shellcheck(tmp_path):
    inline = tmp_path / "nightly-in-cronjob.sh"
    pod = resource("CronJob")["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    inline.write_text("#!/bin/sh\nset -eu\n" + pod["containers"][0]["args"][0])
    scripts = [CLUSTER / "slurm" / "score.sbatch", CLUSTER / "cron" / "nightly.sh", inline]
    done = subprocess.run([BIN / "shellcheck", *scripts], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_the_dockerfile_passes_hadolint_and_names_what_is_there():
    done = subprocess.run(
        [BIN / "hadolint", CLUSTER / "Dockerfile"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout
    wheel = f"bertbatch-{bertbatch.__version__}-py3-none-manylinux_2_17_x86_64.whl"
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    for path in re.findall(r"^COPY (?!--)(.*) \S+$", DOCKERFILE, re.M):
        for name in path.split():
            assert name == f"dist/{wheel}" or (ROOT / name).exists(), name
            assert any(fnmatch(name, line[1:]) for line in ignored if line.startswith("!")), name
    installed = re.findall(r"'\./([^'\[]+)\[([a-z0-9,]+)\]'", DOCKERFILE)
    assert [file for file, _ in installed] == [wheel, wheel]
    extras = {names for _, names in installed}
    known = set(re.findall(r"^(\w+) = \[", (ROOT / "pyproject.toml").read_text(), re.M))
    assert extras
    assert set(",".join(extras).split(",")) <= known


def test_ray_takes_the_aws_cluster(tmp_path):
    from ray.autoscaler._private.util import prepare_config, validate_config

    config = yaml.safe_load((CLUSTER / "ray-up" / "aws.yaml").read_text())
    validate_config(prepare_config(config))
    config["max_wokers"] = 3
    with pytest.raises(jsonschema.ValidationError):
        validate_config(config)


def test_readmes_name_what_is_there():
    for readme in CLUSTER.rglob("README.md"):
        for target in re.findall(r"\]\(([^)h][^)]*)\)", readme.read_text()):
            assert (readme.parent / target.partition("#")[0]).exists(), f"{readme}: {target}"
        for name in re.findall(r"-f (\S+\.yaml)", readme.read_text()):
            assert (readme.parent / name).exists(), f"{readme}: {name}"


def test_the_script_for_cron_is_quiet_unless_something_is_wrong(tmp_path, tiny_model, corpus):
    """Run for real: quiet when all is well, the log's end and the exit code when not."""
    job, logs = tmp_path / "reviews.yaml", tmp_path / "logs"
    data = {
        "input": {"path": str(corpus), "carry": ["id"]},
        "output": {"path": f"{tmp_path}/out/{{date}}"},
        "model": {"name": tiny_model},
        "runtime": {"runner": "inline"},
    }
    job.write_text(yaml.safe_dump(data))
    home = tmp_path / "project"  # with an environment, wherever the tests' own is
    home.mkdir()
    (home / ".venv").symlink_to(BIN.parent)
    (home / "jobs").symlink_to(ROOT / "jobs")

    def night(*options: str) -> subprocess.CompletedProcess:
        return subprocess.run(
            [CLUSTER / "cron" / "nightly.sh", job, *options],
            capture_output=True, text=True, cwd=tmp_path,
            env={**os.environ, "BERTBATCH": str(home), "LOGS": str(logs), "PYTHONPATH": str(ROOT)},
        )  # fmt: skip

    done = night("--date", "2026-11-20")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert sorted(pd.read_parquet(tmp_path / "out" / "2026-11-20")["id"]) == list(range(600))
    done = night("--set", "input.text=nothing")
    assert done.returncode == 2
    assert "nothing" in done.stdout
    assert len(list(logs.glob("reviews-*.log"))) >= 1
