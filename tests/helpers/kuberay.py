"""JSON schemas of KubeRay's resources, from the field reference of its release 1.7.0.

Every field that a RayCluster and a RayJob may have, and no other: a misspelt one is an error, as
it is for the operator's own admission. Pods, services and the like are Kubernetes' types, and
are checked against Kubernetes' schemas by whoever uses these; see test_cluster_manifests.py.
"""

from typing import Any

RELEASE = "1.7.0"


def _object(required: list[str] | None = None, **fields: Any) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": fields,
        "required": required or [],
        "additionalProperties": False,
    }


def _one_of(*values: str) -> dict[str, Any]:
    return {"enum": list(values)}


TEXT = {"type": "string"}
FLAG = {"type": "boolean"}
WHOLE = {"type": "integer", "minimum": 0}
NUMBER = {"type": "number"}
TEXTS = {"type": "object", "additionalProperties": TEXT}
KUBERNETES = {"type": "object"}
LIST = {"type": "array"}

AUTOSCALER = _object(
    resources=KUBERNETES,
    image=TEXT,
    imagePullPolicy=TEXT,
    securityContext=KUBERNETES,
    idleTimeoutSeconds=WHOLE,
    upscalingMode=_one_of("Default", "Aggressive", "Conservative"),
    version=_one_of("v1", "v2"),
    env=LIST,
    envFrom=LIST,
    volumeMounts=LIST,
    command=LIST,
    args=LIST,
)
HEAD = _object(
    ["template"],
    template=KUBERNETES,
    headService=KUBERNETES,
    enableIngress=FLAG,
    ingressOptions=KUBERNETES,
    resources=TEXTS,
    labels=TEXTS,
    rayStartParams=TEXTS,
    serviceType=_one_of("ClusterIP", "NodePort", "LoadBalancer"),
)
WORKERS = _object(
    ["groupName", "template"],
    suspend=FLAG,
    groupName=TEXT,
    replicas=WHOLE,
    minReplicas=WHOLE,
    maxReplicas=WHOLE,
    idleTimeoutSeconds=WHOLE,
    priority={"type": "integer"},
    resources=TEXTS,
    labels=TEXTS,
    rayStartParams=TEXTS,
    template=KUBERNETES,
    scaleStrategy=_object(workersToDelete=LIST),
    numOfHosts=WHOLE,
)
CLUSTER = _object(
    ["headGroupSpec"],
    upgradeStrategy=_object(type=_one_of("Recreate", "None")),
    authOptions=_object(
        enableK8sTokenAuth=FLAG, secretName=TEXT, mode=_one_of("disabled", "token")
    ),
    suspend=FLAG,
    managedBy=_one_of("ray.io/kuberay-operator", "kueue.x-k8s.io/multikueue"),
    autoscalerOptions=AUTOSCALER,
    headServiceAnnotations=TEXTS,
    enableInTreeAutoscaling=FLAG,
    gcsFaultToleranceOptions=KUBERNETES,
    historyServerOptions=KUBERNETES,
    networkPolicy=KUBERNETES,
    tlsOptions=_object(enabled=FLAG),
    headGroupSpec=HEAD,
    rayVersion=TEXT,
    workerGroupSpecs={"type": "array", "items": WORKERS},
)
JOB = _object(
    activeDeadlineSeconds={"type": "integer", "minimum": 1},
    backoffLimit=WHOLE,
    rayClusterSpec=CLUSTER,
    submitterPodTemplate=KUBERNETES,
    metadata=TEXTS,
    clusterSelector=TEXTS,
    submitterConfig=_object(backoffLimit=WHOLE),
    managedBy=_one_of("ray.io/kuberay-operator", "kueue.x-k8s.io/multikueue"),
    deletionStrategy=KUBERNETES,
    entrypoint=TEXT,
    runtimeEnvYAML=TEXT,
    jobId=TEXT,
    submissionMode=_one_of("K8sJobMode", "HTTPMode", "InteractiveMode", "SidecarMode"),
    entrypointResources=TEXT,
    entrypointNumCpus=NUMBER,
    entrypointNumGpus=NUMBER,
    ttlSecondsAfterFinished=WHOLE,
    preRunningDeadlineSeconds={"type": "integer", "minimum": 1},
    shutdownAfterJobFinishes=FLAG,
    suspend=FLAG,
)


def _resource(kind: str, spec: dict[str, Any]) -> dict[str, Any]:
    return _object(
        ["apiVersion", "kind", "metadata", "spec"],
        apiVersion={"const": "ray.io/v1"},
        kind={"const": kind},
        metadata=KUBERNETES,
        spec=spec,
    )


SCHEMAS = {"RayCluster": _resource("RayCluster", CLUSTER), "RayJob": _resource("RayJob", JOB)}
