"""What a cluster is made from: each file against the program that reads it, and against the settings of rlcap."""

import json
import os
import re
import shlex
import subprocess
import tomllib
from fnmatch import fnmatch
from pathlib import Path

import pytest
import yaml

from rlcap.config.load import load_config

ROOT = Path(__file__).resolve().parents[2]
CLUSTER = ROOT / "cluster"
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
MARKS = {"learner_node", "actor_node", "shard_node"}

POD = {
    "metadata.name": str,
    "rayStartParams": dict,
    "template.spec.securityContext.runAsNonRoot": bool,
    "template.spec.securityContext.runAsUser": int,
    "template.spec.securityContext.fsGroup": int,
    "template.spec.tolerations[].key": str,
    "template.spec.tolerations[].operator": str,
    "template.spec.tolerations[].effect": str,
    "template.spec.containers[].name": str,
    "template.spec.containers[].image": str,
    "template.spec.containers[].ports[].name": str,
    "template.spec.containers[].ports[].containerPort": int,
    "template.spec.containers[].resources.requests": dict,
    "template.spec.containers[].resources.limits": dict,
    "template.spec.containers[].volumeMounts[].name": str,
    "template.spec.containers[].volumeMounts[].mountPath": str,
    "template.spec.volumes[].name": str,
    "template.spec.volumes[].persistentVolumeClaim.claimName": str,
    "resources": dict,
}
"""Fields of a pod that were held against KubeRay's resource definitions (1.5.1, 1.6.2 and 1.7.0), and their types."""
CLUSTER_FIELDS = {
    "rayVersion": str,
    "authOptions.mode": str,
    "enableInTreeAutoscaling": bool,
    "autoscalerOptions.version": str,
    "autoscalerOptions.upscalingMode": str,
    "autoscalerOptions.idleTimeoutSeconds": int,
    "workerGroupSpecs[].groupName": str,
    "workerGroupSpecs[].replicas": int,
    "workerGroupSpecs[].minReplicas": int,
    "workerGroupSpecs[].maxReplicas": int,
    **{f"headGroupSpec.{path}": kind for path, kind in POD.items()},
    **{f"workerGroupSpecs[].{path}": kind for path, kind in POD.items()},
}
JOB_FIELDS = {
    "entrypoint": str,
    "runtimeEnvYAML": str,
    "backoffLimit": int,
    "shutdownAfterJobFinishes": bool,
    "ttlSecondsAfterFinished": int,
    **{f"rayClusterSpec.{path}": kind for path, kind in CLUSTER_FIELDS.items()},
}


def kuberay(name):
    return yaml.safe_load((CLUSTER / f"kuberay/{name}.yaml").read_text())


def launcher(name):
    return yaml.safe_load((CLUSTER / f"launcher/{name}.yaml").read_text())


def leaves(node, fields, path=""):
    """Yield every leaf by its path; a mapping that `fields` calls one is a leaf."""
    if isinstance(node, dict) and fields.get(path) is not dict:
        for key, value in node.items():
            yield from leaves(value, fields, f"{path}.{key}" if path else key)
    elif isinstance(node, list):
        for item in node:
            yield from leaves(item, fields, f"{path}[]")
    else:
        yield path, node


@pytest.mark.parametrize(
    ("name", "kind", "fields"), [("raycluster", "RayCluster", CLUSTER_FIELDS), ("rayjob", "RayJob", JOB_FIELDS)]
)
def test_kuberay_knows_every_field_and_its_type(name, kind, fields):
    manifest = kuberay(name)
    assert manifest.pop("metadata") == {"name": "rlcap"}
    assert (manifest.pop("apiVersion"), manifest.pop("kind")) == ("ray.io/v1", kind)
    assert list(manifest) == ["spec"]
    for path, value in leaves(manifest["spec"], fields):
        assert path in fields, f"{name}.yaml: {path}"
        assert type(value) is fields[path], f"{name}.yaml: {path}"


@pytest.mark.parametrize(("name", "crd"), [("raycluster", "rayclusters"), ("rayjob", "rayjobs")])
def test_the_resource_definitions_of_kuberay_allow_the_manifests(name, crd):
    folder = os.environ.get("RLCAP_KUBERAY_CRDS")
    if not folder:
        pytest.skip("RLCAP_KUBERAY_CRDS names no folder with the resource definitions of KubeRay (config/crd/bases)")
    import jsonschema

    versions = yaml.load((Path(folder) / f"ray.io_{crd}.yaml").read_text(), yaml.CSafeLoader)["spec"]["versions"]
    schema = next(version["schema"]["openAPIV3Schema"] for version in versions if version["name"] == "v1")
    forbid_unknown_fields(schema)
    schema["properties"]["metadata"] = {}
    jsonschema.validate(kuberay(name), schema)


def forbid_unknown_fields(schema):
    """Let a schema refuse what the API server would silently drop."""
    if isinstance(schema, list):
        for item in schema:
            forbid_unknown_fields(item)
    elif isinstance(schema, dict) and schema.get("x-kubernetes-int-or-string"):
        schema.clear()
    elif isinstance(schema, dict):
        if schema.get("type") == "object" and "properties" in schema:
            schema.setdefault("additionalProperties", False)
        for item in list(schema.values()):
            forbid_unknown_fields(item)


def node_types(spec):
    """Return what Ray's autoscaler reads in a manifest."""
    from ray.autoscaler._private.kuberay.autoscaling_config import _derive_autoscaling_config_from_ray_cr

    return _derive_autoscaling_config_from_ray_cr(
        {"metadata": {"name": "rlcap", "namespace": "default"}, "spec": spec}
    )["available_node_types"]


def job_config():
    program, *overrides = shlex.split(kuberay("rayjob")["spec"]["entrypoint"])
    assert program == "start-or-resume"
    return load_config(overrides)


def processes(config):
    """Return for each mark: how many processes, and the CPUs and GPUs of one."""
    cluster = config.cluster
    return {
        cluster.learner_nodes: (cluster.num_learners, cluster.learner_cpus, cluster.learner_gpus),
        cluster.actor_nodes: (cluster.num_actors, cluster.actor_cpus, cluster.actor_gpus),
        cluster.shard_nodes: (config.reward.num_shards, cluster.shard_cpus, cluster.shard_gpus),
    }


def check_room(config, types):
    """Every process has a type of node to itself and its like, and enough of them may come."""
    marked = {mark: node for node in types.values() for mark in MARKS & set(node["resources"])}
    wanted = processes(config)
    assert set(wanted) == set(marked) == MARKS
    for mark, (count, cpus, gpus) in wanted.items():
        resources = marked[mark]["resources"]
        on_one_node = min(resources["CPU"] // cpus, resources["GPU"] // gpus)
        assert on_one_node * marked[mark]["max_workers"] >= count, mark


def test_the_job_fits_on_its_cluster_as_the_autoscaler_sees_it():
    spec = kuberay("rayjob")["spec"]["rayClusterSpec"]
    types = node_types(spec)
    assert types["headgroup"]["resources"]["CPU"] == 0
    assert types["actors"]["resources"].keys() >= {"CPU", "GPU", "memory", "actor_node"}
    check_room(job_config(), types)
    for group in spec["workerGroupSpecs"]:
        assert 1 <= group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]


def test_the_job_can_be_retried():
    spec, config = kuberay("rayjob")["spec"], job_config()
    assert spec["backoffLimit"] > 0
    assert spec["shutdownAfterJobFinishes"]
    assert config.run_dir.startswith("/shared/")
    assert config.cache_dir.startswith("/shared/")
    assert config.data.root.startswith("/shared/")
    from rlcap.algorithm.ray_jobs import STOP_WAIT_S

    assert yaml.safe_load(spec["runtimeEnvYAML"]) == {"env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": str(STOP_WAIT_S)}}


def test_the_cluster_that_stays_is_that_of_the_job():
    spec = kuberay("raycluster")["spec"]
    assert spec == kuberay("rayjob")["spec"]["rayClusterSpec"]
    assert f"ray=={spec['rayVersion']}\n" in (ROOT / "constraints.txt").read_text()
    assert spec["authOptions"] == {"mode": "token"}
    claim = kuberay("volume")
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]
    for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"]):
        pod = group["template"]["spec"]
        (container,) = pod["containers"]
        assert container["image"] == f"rlcap:{VERSION}"
        assert container["resources"]["requests"] == container["resources"]["limits"]
        assert container["volumeMounts"] == [{"name": "shared", "mountPath": "/shared"}]
        assert pod["volumes"] == [{"name": "shared", "persistentVolumeClaim": {"claimName": claim["metadata"]["name"]}}]


@pytest.mark.parametrize("cloud", ["aws", "gcp"])
def test_the_launcher_of_ray_takes_its_file_and_the_job_fits(cloud):
    from ray.autoscaler._private.util import prepare_config, validate_config

    config = prepare_config(launcher(cloud))
    validate_config(config)
    assert config["provider"]["type"] == cloud
    types = config["available_node_types"]
    assert config["max_workers"] == sum(node["max_workers"] for node in types.values())
    assert types[config["head_node_type"]]["resources"] == {"CPU": 0}
    check_room(job_config(), types)


@pytest.mark.parametrize("cloud", ["aws", "gcp"])
def test_a_launched_cluster_asks_for_a_token_and_shows_its_dashboard_to_nobody(cloud):
    config = launcher(cloud)
    assert config["docker"]["image"] == f"rlcap:{VERSION}"
    assert "--env RAY_AUTH_MODE=token" in config["docker"]["run_options"]
    assert config["file_mounts"] == {"/home/rlcap/.ray/auth_token": "~/.ray/auth_token"}
    assert any("--dashboard-host=127.0.0.1" in command for command in config["head_start_ray_commands"])
    assert any(command.endswith(" /shared") for command in config["initialization_commands"])


def instructions():
    """Return the instructions of the container file, as words."""
    text = (CLUSTER / "Dockerfile").read_text()
    lines = re.sub(r"\\\n", " ", re.sub(r"^#.*\n", "", text, flags=re.MULTILINE)).splitlines()
    return [line.split() for line in lines if line]


def test_the_container_file_copies_what_there_is_and_what_it_may():
    ignored, *allowed = [
        line.removeprefix("!")
        for line in (CLUSTER / "Dockerfile.dockerignore").read_text().splitlines()
        if line.startswith(("*", "!")) and "**" not in line
    ]
    assert ignored == "*"
    copied = [
        source
        for word, *arguments in instructions()
        if word == "COPY"
        for source in [argument for argument in arguments if not argument.startswith("--")][:-1]
    ]
    for source in copied:
        assert (ROOT / source).exists(), source
        assert any(fnmatch(source, pattern) for pattern in allowed), source
    assert set(allowed) == set(copied)
    packages = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert set(packages["packages"]) <= set(copied)


def test_the_container_takes_its_ground_from_outside_and_does_not_run_as_root():
    parsed = instructions()
    assert [words[0] for words in parsed[:2]] == ["ARG", "FROM"]
    assert parsed[1] == ["FROM", "${BASE}"]
    assert [words[1] for words in parsed if words[0] == "USER"] == ["rlcap"]
    assert "://" not in (CLUSTER / "Dockerfile").read_text()
    installs = [words for words in parsed if words[:3] == ["RUN", "pip", "install"] or "pip install" in " ".join(words)]
    assert any({"-c", "constraints.txt", '".[jobs]"'} <= set(words) for words in installs)
    for words in parsed:
        assert words[0] in {"ARG", "FROM", "RUN", "WORKDIR", "COPY", "ENV", "USER", "CMD"}
        if words[0] == "RUN":
            subprocess.run(["bash", "-n", "-c", " ".join(words[1:])], check=True)
        if words[0] == "CMD":
            assert json.loads(" ".join(words[1:])) == ["rlcap", "--help"]


def test_the_commands_of_the_page_have_known_settings_and_name_files_that_exist():
    page = (ROOT / "docs/scaling-out.md").read_text()
    commands = [
        line.strip() for line in re.sub(r"\\\n +", "", page).splitlines() if line.startswith("    ") and "|" not in line
    ]
    with_settings = [line for line in commands if re.search(r"rlcap train|rlcap\.sbatch", line)]
    assert len(with_settings) >= 8
    for line in with_settings:
        words = shlex.split(line.split(" # ")[0])
        load_config([word for word in words if re.match(r"[a-z_.]+=", word)])
    for name in re.findall(r"(?<![\w/])(?:cluster|configs|tests)/[\w/.-]+\.\w+", page):
        assert (ROOT / name).is_file(), name
