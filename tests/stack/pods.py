"""Containers of the pods in `deploy/kubernetes`, started by Docker as the kubelet would start them."""

import subprocess
import uuid
from pathlib import Path

import httpx

from ..deploy.manifests import Manifest, Pod, environment, ports
from .compose import COMMAND_SECONDS, ROOT, docker

FILES = {
    "mlflow": ("Dockerfile.train", "tracking"),
    "train": ("Dockerfile.train", "train"),
    "serve": ("Dockerfile.serve",),
}
UNITS = {"Mi": 2**20, "Gi": 2**30}


class Container:
    """One container with the security context, folders, variables, limits and command of its pod, and no init.

    Args:
        manifests: those of the overlay.
        pod: of one container.
        image: in place of the pod's.
        network: on which `mlflow` is a name, as in the cluster.
        folder: for what the kubelet puts on the node.
        secrets: the files of each Secret.
        extra: further variables.
    """

    def __init__(
        self,
        manifests: tuple[Manifest, ...],
        pod: Pod,
        image: str,
        network: str,
        folder: Path,
        secrets: dict[str, dict[str, str]] | None = None,
        extra: dict[str, str] | None = None,
    ) -> None:
        self.pod, self.name = pod, f"digits-pod-{uuid.uuid4().hex[:8]}"
        self._folder, self._secrets = folder, secrets or {}
        variables = environment(manifests, pod.container) | (extra or {})
        assert all(isinstance(value, str) for value in variables.values()), "a reference to a Secret needs a value"
        options = [option for name, value in variables.items() for option in ("--env", f"{name}={value}")]
        options += [option for mount in pod.container["volumeMounts"] for option in ("--mount", self._mount(mount))]
        options += [option for port in ports(pod.container).values() for option in ("--publish", f"127.0.0.1::{port}")]
        command = pod.container.get("command", [])
        options += ["--entrypoint", command[0]] if command else []
        started = [image, *command[1:], *pod.container.get("args", [])]
        alias = pod.name.removeprefix("digits-")
        options += ["--network", network, "--network-alias", alias]
        docker("run", "--detach", "--name", self.name, *self._security(), *options, *started)

    def _security(self) -> list[str]:
        """Return the options of both security contexts; Docker's default profile is the runtime's."""
        around, own = self.pod.spec["securityContext"], self.pod.container["securityContext"]
        assert around["seccompProfile"] == {"type": "RuntimeDefault"}
        limit = self.pod.container["resources"]["limits"]["memory"]
        return [
            *("--user", f"{around['runAsUser']}:{around['runAsGroup']}", "--group-add", str(around["fsGroup"])),
            *(["--read-only"] if own["readOnlyRootFilesystem"] else []),
            *(option for name in own["capabilities"]["drop"] for option in ("--cap-drop", name)),
            *([] if own["allowPrivilegeEscalation"] else ["--security-opt", "no-new-privileges:true"]),
            *("--memory", str(size(limit)), "--memory-swap", str(size(limit)), "--no-healthcheck"),
        ]

    def _mount(self, mount: Manifest) -> str:
        """Return a mount as Docker takes it, for a folder that is as the kubelet makes it."""
        (volume,) = [each for each in self.pod.spec["volumes"] if each["name"] == mount["name"]]
        if volume.get("emptyDir", {}).get("medium") == "Memory":
            limit = size(volume["emptyDir"]["sizeLimit"])
            return f"type=tmpfs,destination={mount['mountPath']},tmpfs-size={limit},tmpfs-mode=0777"
        folder = self._folder / mount["name"]
        folder.mkdir(exist_ok=True)
        for item in volume.get("secret", {}).get("items", []):
            (folder / item["path"]).write_text(self._secrets[volume["secret"]["secretName"]][item["key"]])
        # Of another owner, as on a node, where the group of the pod may write.
        folder.chmod(0o755 if "secret" in volume else 0o777)
        options = ",readonly" if mount.get("readOnly") else ""
        return f"type=bind,source={folder},destination={mount['mountPath']}{options}"

    def passes(self, kind: str) -> bool:
        """Send a probe as the kubelet does: by the address of the pod, which is then the `Host`."""
        probe = self.pod.container[kind]
        port = ports(self.pod.container)[probe["httpGet"]["port"]]
        networks = docker("inspect", "--format", "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}", self.name)
        headers = {"Host": f"{networks.strip()}:{port}", "User-Agent": "kube-probe/1.36"}
        url = f"{self.address(port)}{probe['httpGet']['path']}"
        return httpx.get(url, headers=headers, timeout=probe["timeoutSeconds"]).is_success

    def address(self, port: int) -> str:
        """Return the URL at which this machine reaches a port."""
        return f"http://{docker('port', self.name, f'{port}/tcp').splitlines()[0]}"

    def may_write(self, path: str) -> bool:
        """Return whether the container can create a file in a folder."""
        command = ["docker", "exec", self.name, "touch", f"{path}/written"]
        return subprocess.run(command, check=False, capture_output=True, timeout=COMMAND_SECONDS).returncode == 0

    def stop(self) -> int:
        """Stop it with the grace of its pod, less preStop, and return its exit code."""
        hook = self.pod.container.get("lifecycle", {}).get("preStop", {})
        grace = self.pod.spec["terminationGracePeriodSeconds"] - hook.get("sleep", {}).get("seconds", 0)
        docker("stop", "--time", str(grace), self.name)
        return self.wait()

    def wait(self) -> int:
        """Return the exit code when it has ended."""
        return int(subprocess.run(["docker", "wait", self.name], check=True, capture_output=True, timeout=600).stdout)

    def log(self) -> str:
        """Return what it has written so far."""
        command = ["docker", "logs", self.name]
        return subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True).stdout

    def remove(self) -> None:
        """Take it down."""
        subprocess.run(["docker", "rm", "--force", "--volumes", self.name], check=False, capture_output=True)


def built(part: str, seconds: float) -> str:
    """Build the image of a part, from cached layers if there are any, and return its id."""
    file, *target = FILES[part]
    command = ["docker", "build", "--quiet", "--file", file, *(("--target", *target) if target else ())]
    command += ["--build-arg", "BASE_IMAGE", "--build-arg", "TORCH_INDEX_URL", "."]  # of this environment, if set
    done = subprocess.run(command, check=True, cwd=ROOT, capture_output=True, text=True, timeout=seconds)
    return done.stdout.strip()


def size(text: str) -> int:
    """Return a quantity of Kubernetes in bytes."""
    return int(text[:-2]) * UNITS[text[-2:]]
