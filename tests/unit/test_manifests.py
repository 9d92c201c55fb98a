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

EXAMPLES = Path(__file__).parents[2] / "examples"
MANIFESTS = [*sorted(EXAMPLES.glob("kubernetes/*.yaml")), EXAMPLES / "containers/pod.yaml"]
MANIFESTS = [path for path in MANIFESTS if path.name != "kustomization.yaml"]


def load(path: Path) -> Any:
    return yaml.safe_load(path.read_text())


@pytest.mark.parametrize("version", ["1.29", "1.34"])
@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_a_manifest_is_valid(path: Path, version: str) -> None:
    kubernetes_validate.validate(load(path), version, strict=True)


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
