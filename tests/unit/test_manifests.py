# SPDX-License-Identifier: MIT
"""The manifests of the examples: valid to Kubernetes, and of the paths and names that programs use."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from gpiovirt.kubernetes import main
from gpiovirt.kubernetes.device_plugin import KUBELET_DIRECTORY
from gpiovirt.kubernetes.dra import DRIVER, definition_of
from gpiovirt.virtual.definition import Definition

EXAMPLES = Path(__file__).parents[2] / "examples"
MANIFESTS = [*sorted(EXAMPLES.glob("kubernetes/*.yaml")), EXAMPLES / "containers/pod.yaml"]
MANIFESTS = [path for path in MANIFESTS if path.name != "kustomization.yaml"]
DRA = EXAMPLES / "kubernetes/dra"


def load(path: Path) -> Any:
    return yaml.safe_load(path.read_text())


@pytest.mark.parametrize("version", ["1.29", "1.34"])
@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_a_manifest_is_valid(path: Path, version: str) -> None:
    kubernetes_validate.validate(load(path), version, strict=True)


@pytest.mark.parametrize("name", ["claim", "deviceclass", "rbac"])
def test_a_manifest_of_claims_is_valid_where_there_are_claims(name: str) -> None:
    documents = list(yaml.safe_load_all((DRA / f"{name}.yaml").read_text()))
    assert documents
    for document in documents:
        kubernetes_validate.validate(document, "1.34", strict=True)


def test_the_example_of_a_claim_is_one_that_the_driver_understands() -> None:
    template = next(yaml.safe_load_all((DRA / "claim.yaml").read_text()))
    (config,) = template["spec"]["spec"]["devices"]["config"]
    result = {"driver": DRIVER, "request": "chip", "pool": "node", "device": "chip-0"}
    allocation = {"devices": {"results": [result], "config": [config]}}
    uid = "0a1b2c3d-4e5f-6071-8293-a4b5c6d7e8f9"
    wanted, _ = definition_of({"metadata": {"uid": uid}, "status": {"allocation": allocation}}, uid)
    definition = Definition.parse(wanted.name, wanted.definition, wanted.options)
    assert (definition.num_lines, definition.texts()) == (5, {"4": "safe=low"})


def test_the_driver_of_claims_may_do_what_it_does_and_no_more() -> None:
    role = list(yaml.safe_load_all((DRA / "rbac.yaml").read_text()))[1]
    may = {
        (resource, verb) for rule in role["rules"] for resource in rule["resources"] for verb in rule["verbs"]
    }
    slices = {("resourceslices", verb) for verb in ("get", "create", "update")}
    assert may == slices | {("resourceclaims", "get")}


def test_the_kustomization_has_all_but_the_example_of_a_pod() -> None:
    resources = load(EXAMPLES / "kubernetes/kustomization.yaml")["resources"]
    assert {*resources, "pod.yaml", "kustomization.yaml"} == {
        path.name for path in (EXAMPLES / "kubernetes").glob("*.yaml")
    }


def test_the_daemon_set_mounts_what_its_program_opens() -> None:
    pod = load(EXAMPLES / "kubernetes/daemonset.yaml")["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    mounted = {mount["mountPath"] for mount in container["volumeMounts"]}
    assert mounted == {volume["hostPath"]["path"] for volume in pod["volumes"]}
    options = main.parser().parse_args(container["command"][1:])
    assert mounted == {options.run, options.plugins, str(Path(options.nri).parent)}
    assert options.plugins == KUBELET_DIRECTORY
