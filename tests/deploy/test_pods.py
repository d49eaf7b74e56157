"""The pods agree with the images that they run: ports, probes, users, commands, folders, settings."""

import inspect
import json
import re
import tomllib
from typing import Any

import mlflow.environment_variables
import pytest
from circus.watcher import Watcher  # type: ignore[import-untyped]
from mlflow.cli import server

from pipeline.settings import COMMAND_SETTINGS, FLAGS_ONLY, WrongSettingError, variable
from serving.settings import Settings as ServingSettings
from serving.web.hosts import EXEMPT

from .manifests import NAME, ROOT, STAGES, Manifest, Pod, environment, exposed, matches, of_kind, one, pods, ports

pytestmark = pytest.mark.scale

PIPELINE = {variable(field) for kind in COMMAND_SETTINGS for field in kind.model_fields if field not in FLAGS_ONLY}
SERVING = {f"SERVING_{field.upper()}" for field in ServingSettings.model_fields}
MLFLOW = {name for name in vars(mlflow.environment_variables) if name.startswith("MLFLOW_")}
MLFLOW_SERVER = {str(option.envvar) for option in server.params if option.envvar}
S3 = {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_DEFAULT_REGION"}  # of botocore
KNOWN = {
    "digits-mlflow": MLFLOW | MLFLOW_SERVER | S3,
    "digits-train": MLFLOW | PIPELINE,
    "digits-serve": MLFLOW | SERVING,
}
# Besides the volumes of the image, only these are writable; those of foreign images are listed.
TMP = "/tmp"
FOREIGN = {
    "digits-postgres": {"/var/lib/postgresql/data", "/var/run/postgresql", TMP},
    "digits-s3": {"/data", TMP},
    "digits-ray": {"/state", "/dev/shm", TMP},
}


def ours(manifests: tuple[Manifest, ...]) -> list[Pod]:
    found = [pod for pod in pods(manifests) if pod.name in STAGES]
    assert {pod.name for pod in found} == STAGES.keys()
    return found


def of(manifests: tuple[Manifest, ...], name: str) -> Pod:
    return next(pod for pod in pods(manifests) if pod.name == name)


def test_users_are_those_of_the_images(manifests: tuple[Manifest, ...]) -> None:
    for pod in ours(manifests):
        user, group = re.findall(r"^USER (\d+):(\d+)$", pod.stage, re.MULTILINE)[-1]
        context = pod.spec["securityContext"]
        assert (context["runAsUser"], context["runAsGroup"]) == (int(user), int(group)), pod.name
        # The owner of volumes, which those of a claim take from here.
        assert context["fsGroup"] == int(group), pod.name


def test_every_pod_is_restricted(manifests: tuple[Manifest, ...]) -> None:
    namespace = one(manifests, "Namespace", "digits")
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    for pod in pods(manifests):
        assert pod.spec["securityContext"]["runAsNonRoot"] is True, pod.name
        assert pod.spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, pod.name
        assert not pod.spec.keys() & {"hostNetwork", "hostPID", "hostIPC"}, pod.name
        assert pod.spec["automountServiceAccountToken"] is False, pod.name
        kinds = {kind for volume in pod.spec["volumes"] for kind in volume.keys() - {"name"}}
        assert kinds <= {"emptyDir", "persistentVolumeClaim", "secret"}, pod.name
        for container in pod.containers:
            context = container["securityContext"]
            assert context["allowPrivilegeEscalation"] is False, pod.name
            assert context["readOnlyRootFilesystem"] is True, pod.name
            assert context["capabilities"] == {"drop": ["ALL"]}, pod.name
            assert context.keys() == {"allowPrivilegeEscalation", "readOnlyRootFilesystem", "capabilities"}, pod.name


def test_variables_of_services_stay_out(manifests: tuple[Manifest, ...]) -> None:
    # Kubernetes would set this one for the Service `mlflow`.
    assert "MLFLOW_PORT" in MLFLOW_SERVER
    assert one(manifests, "Service", "mlflow")
    assert [pod.name for pod in pods(manifests) if pod.spec["enableServiceLinks"] is not False] == []


def test_every_variable_is_a_known_setting(manifests: tuple[Manifest, ...]) -> None:
    for pod in ours(manifests):
        for container in pod.containers:
            unknown = environment(manifests, container).keys() - KNOWN[pod.name]
            assert unknown == set(), pod.name


def test_values_of_settings_are_accepted(manifests: tuple[Manifest, ...]) -> None:
    train = environment(manifests, of(manifests, "digits-train").container)
    serve = environment(manifests, of(manifests, "digits-serve").container)
    given = {name.removeprefix("SERVING_").lower(): value for name, value in serve.items() if name in SERVING}
    assert ServingSettings(**given).log_format == "json"
    kind = COMMAND_SETTINGS[0]
    given = {name.removeprefix("PIPELINE_").lower(): value for name, value in train.items() if name in PIPELINE}
    assert kind(**given).log_format == "json"


def test_artifacts_pass_through_mlflow(manifests: tuple[Manifest, ...]) -> None:
    # With S3 behind it, MLflow sends its clients there, unless they refuse; the policies keep them out.
    for name in ("digits-train", "digits-serve"):
        variables = environment(manifests, of(manifests, name).container)
        assert variables["MLFLOW_ENABLE_PROXY_MULTIPART_DOWNLOAD"] == "false"
    variables = environment(manifests, of(manifests, "digits-train").container)
    assert variables["MLFLOW_ENABLE_PROXY_MULTIPART_UPLOAD"] == "false"


def test_ports_are_those_of_the_images(manifests: tuple[Manifest, ...]) -> None:
    for pod in ours(manifests):
        assert sorted(ports(pod.container).values()) == sorted(exposed(pod.stage)), pod.name


def test_services_lead_to_the_ports_of_their_pods(manifests: tuple[Manifest, ...]) -> None:
    for service in of_kind(manifests, "Service"):
        found = [pod for pod in pods(manifests) if matches({"matchLabels": service["spec"]["selector"]}, pod.labels)]
        assert len(found) == 1, service["metadata"]["name"]
        for port in service["spec"]["ports"]:
            assert ports(found[0].container)[port["targetPort"]] == port["port"]


def test_probes_are_those_of_the_images(manifests: tuple[Manifest, ...]) -> None:
    probed = [pod for pod in ours(manifests) if pod.name != "digits-train"]
    for pod in probed:
        container = pod.container
        address = re.search(r"urlopen\('http://127\.0\.0\.1:(\d+)(/\w+)'", pod.stage)
        assert address
        assert container["readinessProbe"]["httpGet"]["path"] == address.group(2)
        for kind in ("startupProbe", "livenessProbe", "readinessProbe"):
            probe = container[kind]
            assert ports(container)[probe["httpGet"]["port"]] == int(address.group(1))
        assert container["startupProbe"]["httpGet"] == container["livenessProbe"]["httpGet"]
    serve = of(manifests, "digits-serve").container
    # A service without a model lives. The kubelet comes by the address of the pod, which no list of hosts can name.
    assert serve["livenessProbe"]["httpGet"]["path"] == "/livez"
    assert {serve[kind]["httpGet"]["path"] for kind in ("livenessProbe", "readinessProbe")} <= EXEMPT


def test_only_known_folders_are_writable(manifests: tuple[Manifest, ...]) -> None:
    for pod in pods(manifests):
        volumes = {line for text in re.findall(r"^VOLUME (.*)$", pod.stage, re.MULTILINE) for line in text.split()}
        # The stores of MLflow are elsewhere.
        known = FOREIGN.get(pod.name, (volumes | {TMP}) - {"/mlflow"})
        named = {volume["name"] for volume in pod.spec["volumes"]}
        named |= {claim["metadata"]["name"] for claim in pod.owner["spec"].get("volumeClaimTemplates", [])}
        mounts = [mount for container in pod.containers for mount in container["volumeMounts"]]
        assert {mount["name"] for mount in mounts} == named, pod.name
        assert {mount["mountPath"] for mount in mounts if not mount.get("readOnly")} == known, pod.name


def test_state_that_outlives_a_pod_is_in_a_claim(manifests: tuple[Manifest, ...]) -> None:
    claims = {each["metadata"]["name"] for each in of_kind(manifests, "PersistentVolumeClaim")}
    for pod in pods(manifests):
        used = {
            volume["persistentVolumeClaim"]["claimName"]
            for volume in pod.spec["volumes"]
            if "persistentVolumeClaim" in volume
        }
        assert used == {"digits-train": {"train-state"}, "digits-ray": {"ray-state"}}.get(pod.name, set())
        assert used <= claims


def test_images_have_the_version_of_the_project(manifests: tuple[Manifest, ...]) -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    for pod in pods(manifests):
        for container in pod.containers:
            name, colon, tag = container["image"].rpartition(":")
            assert colon, container["image"]
            assert tag not in ("", "latest"), container["image"]
            if pod.name in STAGES:
                assert re.fullmatch(rf"{re.escape(version)}(-cuda)?", tag), container["image"]
                assert name.rpartition("/")[2] in (pod.name, "serve", "train", "tracking-team"), container["image"]


def test_mlflow_runs_the_command_of_its_image_on_other_stores(manifests: tuple[Manifest, ...]) -> None:
    found = re.search(r"^CMD (\[\"mlflow\".*?\])$", of(manifests, "digits-mlflow").stage, re.MULTILINE | re.DOTALL)
    assert found
    command: list[str] = json.loads(found.group(1).replace("\\\n", ""))
    for option in {"--backend-store-uri", "--artifacts-destination", "--workers"}.intersection(command):
        at = command.index(option)
        del command[at : at + 2]
    container = of(manifests, "digits-mlflow").container
    assert container["command"] == command
    # The options that are gone.
    variables = {"MLFLOW_BACKEND_STORE_URI", "MLFLOW_ARTIFACTS_DESTINATION", "MLFLOW_WORKERS"}
    assert variables <= environment(manifests, container).keys()


def test_grace_is_enough_for_what_ends(manifests: tuple[Manifest, ...]) -> None:
    serve = of(manifests, "digits-serve")
    graceful = inspect.signature(Watcher.__init__).parameters["graceful_timeout"].default
    sleep = serve.container["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert serve.spec["terminationGracePeriodSeconds"] > sleep + graceful
    assert of(manifests, "digits-train").spec["terminationGracePeriodSeconds"] > 10


def test_schedule_runs_the_pod_of_the_job_and_is_suspended(manifests: tuple[Manifest, ...]) -> None:
    schedule = one(manifests, "CronJob", "train")["spec"]
    assert schedule["jobTemplate"]["spec"] == one(manifests, "Job", "train")["spec"]
    assert schedule["suspend"] is True
    assert schedule["concurrencyPolicy"] == "Forbid"


def test_job_gives_up_at_a_wrong_setting_only(manifests: tuple[Manifest, ...]) -> None:
    job = one(manifests, "Job", "train")["spec"]
    assert job["template"]["spec"]["restartPolicy"] == "Never"
    first, second = job["podFailurePolicy"]["rules"]
    assert first == {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget"}]}
    assert second["action"] == "FailJob"
    assert second["onExitCodes"]["values"] == [WrongSettingError.exit_code]
    assert second["onExitCodes"]["containerName"] == job["template"]["spec"]["containers"][0]["name"]


def test_memory_is_limited_and_the_processor_is_not(manifests: tuple[Manifest, ...]) -> None:
    def mebibytes(text: str) -> int:
        number, unit = re.fullmatch(r"(\d+)(Mi|Gi)", text).groups()  # type: ignore[union-attr]
        return int(number) * (1024 if unit == "Gi" else 1)

    for pod in pods(manifests):
        for container in pod.containers:
            resources: dict[str, Any] = container["resources"]
            assert resources["requests"].keys() == {"cpu", "memory"}, pod.labels[NAME]
            assert "cpu" not in resources["limits"], pod.labels[NAME]
            assert mebibytes(resources["limits"]["memory"]) >= mebibytes(resources["requests"]["memory"])
