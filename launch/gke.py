"""One command on TPU slices of a GKE cluster, through xpk or as a JobSet of its own.

    python3 launch/gke.py [--dry_run] xpk    --name=g1 --cluster=mine --topology=v5e:4x4 \\
        --image=IMAGE train --config=configs/joint_dst.py:gemma3_1b --workdir=/share/g1
    python3 launch/gke.py [--dry_run] jobset --name=g1 --topology=v5e:4x4 --slices=2 \\
        --image=IMAGE --claim=share train --config=... --workdir=/share/g1

--dry_run prints the xpk command, or the manifest that kubectl would be given, and runs nothing.
IMAGE is built from launch/Dockerfile. `--claim` names a PersistentVolumeClaim of ReadWriteMany
(Filestore, Cloud Storage FUSE) that is mounted at /share: all hosts write the checkpoint there.
With xpk attach the storage to the cluster instead (`xpk storage attach`). `--secret` names a Secret
whose keys become environment variables; no key is ever part of a command or a manifest.

A name that exists already is refused by the cluster, so a second run destroys nothing. When a host
goes, its pod gets SIGTERM and --grace seconds to save with the others; the JobSet then starts all
hosts again, up to --restarts times, and training goes on from the checkpoint.
"""

import argparse
import re
import shlex
import subprocess
import sys

import chips

SHARE = "/share"
# 8471: TPU to TPU; 8476: JAX's coordinator (newer JAX would take another, less open port).
PORTS = (8471, 8476)


def environment(given: argparse.Namespace) -> dict[str, str]:
    name = given.topology.partition(":")[0]
    return {"LIBTPU_INIT_ARGS": chips.line(name, given.slices),
            "JAX_COORDINATOR_PORT": str(PORTS[1])}


def xpk(given: argparse.Namespace, command: list[str]) -> list[str]:
    """The xpk command line; its --command is read by a shell in the container."""
    return ["xpk", "workload", "create", f"--cluster={given.cluster}", f"--workload={given.name}",
            f"--tpu-type={chips.Slice.parse(given.topology).type}",
            f"--num-slices={given.slices}", f"--docker-image={given.image}",
            f"--max-restarts={given.restarts}",
            f"--termination-grace-period-seconds={given.grace}",
            *(f"--env={key}={value}" for key, value in environment(given).items()),
            f"--command={shlex.join(command)}"]


def jobset(given: argparse.Namespace, command: list[str]) -> dict:
    """The manifest of a JobSet: a Job a slice, a pod a host."""
    slice_ = chips.Slice.parse(given.topology)
    container = {
        "name": "speechdst",
        "image": given.image,
        "command": command,
        "env": [{"name": key, "value": value} for key, value in environment(given).items()],
        "ports": [{"containerPort": port} for port in PORTS],
        "resources": {"limits": {"google.com/tpu": min(slice_.chips, chips.HOST)}},
    }
    pod = {
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": given.grace,
        "nodeSelector": {"cloud.google.com/gke-tpu-accelerator": slice_.chip.accelerator,
                         "cloud.google.com/gke-tpu-topology": slice_.topology},
        "containers": [container],
    }
    if given.secret:
        container["envFrom"] = [{"secretRef": {"name": given.secret}}]
    if given.claim:
        container["volumeMounts"] = [{"name": "share", "mountPath": SHARE}]
        pod["volumes"] = [{"name": "share", "persistentVolumeClaim": {"claimName": given.claim}}]
    return {
        "apiVersion": "jobset.x-k8s.io/v1alpha2",
        "kind": "JobSet",
        "metadata": {
            "name": given.name,
            # A slice is one node pool, and no other Job may take nodes of it.
            "annotations": {
                "alpha.jobset.sigs.k8s.io/exclusive-topology": "cloud.google.com/gke-nodepool"},
        },
        "spec": {
            "failurePolicy": {"maxRestarts": given.restarts},
            "replicatedJobs": [{
                "name": "slice",
                "replicas": given.slices,
                "template": {"spec": {
                    "parallelism": slice_.hosts,
                    "completions": slice_.hosts,
                    "backoffLimit": 0,  # one host lost: all start again, together
                    "template": {"spec": pod},
                }},
            }],
        },
    }


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dry_run", action="store_true")
    parser.add_argument("how", choices=("xpk", "jobset"))
    parser.add_argument("--name", required=True)
    parser.add_argument("--topology", required=True)
    parser.add_argument("--image", required=True)
    parser.add_argument("--cluster", default="", help="with xpk; kubectl uses its own context")
    parser.add_argument("--slices", type=int, default=1)
    parser.add_argument("--claim", default="")
    parser.add_argument("--secret", default="")
    parser.add_argument("--restarts", type=int, default=10)
    parser.add_argument("--grace", type=int, default=600, help="seconds to save after SIGTERM")
    parser.add_argument("command", help="train, or another command of speechdst")
    parser.add_argument("arguments", nargs=argparse.REMAINDER)
    return parser


def main() -> None:
    parser = arguments()
    given = parser.parse_args()
    # As Kubernetes wants names, with room for what JobSet adds behind.
    if not re.fullmatch(r"[a-z]([a-z0-9-]{0,38}[a-z0-9])?", given.name):
        parser.error(f"--name={given.name}: lower case letters, digits and -, at most 40")
    if given.how == "xpk" and (not given.cluster or given.claim or given.secret):
        parser.error("xpk wants --cluster, and knows neither --claim nor --secret")
    command = ["python", "-m", f"speechdst.{given.command}", *given.arguments]
    try:
        if given.how == "xpk":
            line, manifest = xpk(given, command), None
        else:
            import yaml  # PyYAML; xpk does without

            line = ["kubectl", "create", "--filename=-"]
            manifest = yaml.safe_dump(jobset(given, command), sort_keys=False)
    except ValueError as error:
        parser.error(str(error))
    if given.dry_run:
        print(f"{manifest}# | {shlex.join(line)}" if manifest else shlex.join(line))
    else:
        sys.exit(subprocess.run(line, input=manifest, text=True, check=False).returncode)


if __name__ == "__main__":
    main()
