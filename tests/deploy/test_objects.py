"""The objects around the pods find them: selectors, autoscaler, budgets, names, policies, entrance."""

import fnmatch
import re
from typing import Any
from urllib.parse import urlsplit

import pytest

from serving.settings import listed
from serving.web.hosts import EXEMPT
from serving.web.pages import read_pages
from serving.web.routes import ROUTES

from .manifests import Manifest, Pod, environment, matches, of_kind, one, overlay, pods, ports

pytestmark = pytest.mark.scale


def selectors(manifests: tuple[Manifest, ...]) -> list[tuple[str, Manifest]]:
    """Return each selector of pods, with the object that has it."""
    found = []
    for each in of_kind(manifests, "Deployment", "StatefulSet", "PodDisruptionBudget"):
        found.append((each["kind"], each["spec"]["selector"]))
    for each in of_kind(manifests, "NetworkPolicy"):
        name, spec = each["metadata"]["name"], each["spec"]
        found.append((name, spec["podSelector"]))
        for rule in spec.get("ingress", []) + spec.get("egress", []):
            peers = rule.get("from", []) + rule.get("to", [])
            found += [(name, peer["podSelector"]) for peer in peers if "podSelector" in peer]
    for pod in pods(manifests):
        found += [(pod.name, each["labelSelector"]) for each in pod.spec.get("topologySpreadConstraints", [])]
    return found


def allows(manifests: tuple[Manifest, ...], source: Pod, target: Pod, port: int) -> bool:
    """Return whether policies let one pod of this namespace open a connection to another."""
    leaves = any(opens(rule, "to", target, port) for rule in rules(manifests, source, "egress"))
    return leaves and any(opens(rule, "from", source, port) for rule in rules(manifests, target, "ingress"))


def rules(manifests: tuple[Manifest, ...], pod: Pod, direction: str) -> list[Manifest]:
    """Return the rules of all policies of a pod in one direction."""
    policies = [
        each["spec"] for each in of_kind(manifests, "NetworkPolicy") if matches(each["spec"]["podSelector"], pod.labels)
    ]
    assert any(direction.title() in policy["policyTypes"] for policy in policies), f"no policy closes {pod.name}"
    return [rule for policy in policies for rule in policy.get(direction, [])]


def opens(rule: Manifest, peers: str, peer: Pod, port: int) -> bool:
    """Return whether a rule holds for a peer and a port; one without peers holds for all."""
    selectors_of_pods = [each["podSelector"] for each in rule.get(peers, []) if "podSelector" in each]
    known = peers not in rule or any(matches(selector, peer.labels) for selector in selectors_of_pods)
    return known and ("ports" not in rule or any(each["port"] == port for each in rule["ports"]))


def by_name(manifests: tuple[Manifest, ...]) -> dict[str, Pod]:
    return {pod.name.removeprefix("digits-"): pod for pod in pods(manifests)}


def test_every_selector_matches_pods(manifests: tuple[Manifest, ...]) -> None:
    found = selectors(manifests)
    assert len(found) > 10
    for name, selector in found:
        assert any(matches(selector, pod.labels) for pod in pods(manifests)), name
    for each in of_kind(manifests, "Deployment", "StatefulSet"):
        assert matches(each["spec"]["selector"], each["spec"]["template"]["metadata"]["labels"])


def test_everything_is_in_one_namespace(manifests: tuple[Manifest, ...]) -> None:
    assert {each["metadata"].get("namespace") for each in manifests if each["kind"] != "Namespace"} == {"digits"}


def test_new_pod_is_ready_before_an_old_one_ends(manifests: tuple[Manifest, ...]) -> None:
    strategies = [each["spec"]["strategy"] for each in of_kind(manifests, "Deployment")]
    strategies += [each["spec"]["predictor"]["deploymentStrategy"] for each in of_kind(manifests, "InferenceService")]
    assert len(strategies) == 2
    for strategy in strategies:
        assert strategy == {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}}


@pytest.mark.parametrize("name", ["dev", "prod", "gpu", "ray"])
def test_autoscaler_sets_the_replicas_of_the_service(name: str) -> None:
    manifests = overlay(name)
    scaler = one(manifests, "HorizontalPodAutoscaler", "serve")["spec"]
    deployment = one(manifests, scaler["scaleTargetRef"]["kind"], scaler["scaleTargetRef"]["name"])
    assert deployment["apiVersion"] == scaler["scaleTargetRef"]["apiVersion"]
    assert "replicas" not in deployment["spec"]
    assert 1 < scaler["minReplicas"] < scaler["maxReplicas"]
    # A share of the request: without one, there is no share.
    assert scaler["metrics"][0]["resource"]["name"] == "cpu"
    assert by_name(manifests)["serve"].container["resources"]["requests"]["cpu"]


def test_budgets_let_a_drain_continue_and_leave_a_replica(manifests: tuple[Manifest, ...]) -> None:
    budgets = of_kind(manifests, "PodDisruptionBudget")
    assert budgets
    for budget in budgets:
        (pod,) = [pod for pod in pods(manifests) if matches(budget["spec"]["selector"], pod.labels)]
        replicas = fewest(manifests, pod)
        assert 0 < budget["spec"]["maxUnavailable"] < replicas, budget["metadata"]["name"]


def fewest(manifests: tuple[Manifest, ...], pod: Pod) -> int:
    """Return the fewest replicas of a kind of pods."""
    scalers = [
        each["spec"]["minReplicas"]
        for each in of_kind(manifests, "HorizontalPodAutoscaler")
        if each["spec"]["scaleTargetRef"]["name"] == pod.owner["metadata"]["name"]
    ]
    spec: dict[str, Any] = pod.owner["spec"]
    replicas: int = scalers[0] if scalers else spec.get("predictor", {}).get("minReplicas") or spec["replicas"]
    return replicas


def test_the_service_answers_to_its_names_in_the_cluster(manifests: tuple[Manifest, ...]) -> None:
    serve = environment(manifests, by_name(manifests)["serve"].container)
    allowed = listed(serve["SERVING_ALLOWED_HOSTS"])
    service = one(manifests, "Service", "serve")["metadata"]
    short = f"{service['name']}.{service['namespace']}"
    assert {service["name"], short, f"{short}.svc", f"{short}.svc.cluster.local", "localhost"} <= set(allowed)
    public = {rule["host"] for each in of_kind(manifests, "Ingress") for rule in each["spec"]["rules"]}
    assert public <= set(allowed)
    assert "*" not in allowed


def test_mlflow_answers_to_the_name_that_its_clients_use(manifests: tuple[Manifest, ...]) -> None:
    parts = by_name(manifests)
    allowed = environment(manifests, parts["mlflow"].container)["MLFLOW_SERVER_ALLOWED_HOSTS"].split(",")
    assert all(each == each.strip() for each in allowed)
    for client in ("train", "serve"):
        address = urlsplit(environment(manifests, parts[client].container)["MLFLOW_TRACKING_URI"])
        service = one(manifests, "Service", str(address.hostname))
        assert address.port in [port["port"] for port in service["spec"]["ports"]]
        assert any(fnmatch.fnmatch(address.netloc, pattern) for pattern in allowed)
        space = service["metadata"]["namespace"]
        for name in (f"mlflow.{space}:5000", f"mlflow.{space}.svc.cluster.local:5000", "localhost:5000"):
            assert any(fnmatch.fnmatch(name, pattern) for pattern in allowed), name
    assert not any(fnmatch.fnmatch("elsewhere.example:5000", pattern) for pattern in allowed)


def test_policies_open_what_is_needed_and_nothing_else(manifests: tuple[Manifest, ...]) -> None:
    parts = by_name(manifests)
    needed = {("train", "mlflow"), ("serve", "mlflow")}
    needed |= {("mlflow", store) for store in ("postgres", "s3") if store in parts}
    needed |= {("ray", "mlflow")} if "ray" in parts else set()
    opened = {
        (source, target)
        for source in parts
        for target in parts
        for port in ports(parts[target].container).values()
        if source != target and allows(manifests, parts[source], parts[target], port)
    }
    assert opened == needed
    closed = one(manifests, "NetworkPolicy", "closed")["spec"]
    assert closed == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}


def test_policies_open_only_ports_that_pods_have(manifests: tuple[Manifest, ...]) -> None:
    for policy in of_kind(manifests, "NetworkPolicy"):
        selected = [pod for pod in pods(manifests) if matches(policy["spec"]["podSelector"], pod.labels)]
        opened = {port["port"] for rule in policy["spec"].get("ingress", []) for port in rule.get("ports", [])}
        assert opened <= {port for pod in selected for port in ports(pod.container).values()}, policy["metadata"]


@pytest.mark.parametrize("name", ["prod", "gpu", "kserve", "ray"])
def test_entrance_has_tls_and_leads_to_what_is_for_everyone(name: str) -> None:
    manifests = overlay(name)
    (entrance,) = of_kind(manifests, "Ingress")
    (rule,) = entrance["spec"]["rules"]
    assert [each["hosts"] for each in entrance["spec"]["tls"]] == [[rule["host"]]]
    for path in rule["http"]["paths"]:
        backend = path["backend"]["service"]
        service = one(manifests, "Service", backend["name"])
        assert backend["port"]["name"] in [port["name"] for port in service["spec"]["ports"]]

    def leads(route: str) -> bool:
        paths = rule["http"]["paths"]
        return any(
            route == path["path"] or (path["pathType"] == "Prefix" and route.startswith(f"{path['path']}/"))
            for path in paths
        )

    routes = set(re.findall(r"/[a-z/.]*", ROUTES)) | {page.path for page in read_pages()}
    assert len(routes) > 12
    assert {route for route in routes if not leads(route)} == routes & EXEMPT
    # Everyone reaches it, so predictions need a token.
    variables = environment(manifests, by_name(manifests)["serve"].container)
    mounts = {mount["mountPath"] for mount in by_name(manifests)["serve"].container["volumeMounts"]}
    assert variables["SERVING_TOKEN_FILE"].rpartition("/")[0] in mounts
