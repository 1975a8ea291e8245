"""A slice of a GKE cluster by a JobSet (https://jobset.sigs.k8s.io): one pod a host, one service for all of them.

GKE tells each pod which worker it is and who the others are (TPU_WORKER_ID, TPU_WORKER_HOSTNAMES), and JAX reads that;
JobSet makes the headless service by whose names they find each other. A pod that dies takes the JobSet's jobs with it:
all are made anew, and the run goes on from its last checkpoint.
"""

import json

from distill.pods.job import GRACE, RESTARTS, Job
from distill.pods.topology import Slice

TEXT = """# {title}
# {made}
#
#   IMAGE=... envsubst '$IMAGE' < jobset.yaml | kubectl apply -f -     # experiments/tpu/Dockerfile makes the image
#   kubectl logs -f -l jobset.sigs.k8s.io/jobset-name={name},batch.kubernetes.io/job-completion-index=0
#   kubectl delete jobset {name}                                       # saves first
#
# The node pool: gcloud container node-pools create {name} --cluster=... --location=... \\
#     --machine-type={machine} --num-nodes={hosts}{placement}
# JobSet itself: https://jobset.sigs.k8s.io/docs/installation
apiVersion: jobset.x-k8s.io/v1alpha2
kind: JobSet
metadata:
  name: {name}
  annotations:
    # all pods of the job in one node pool, and no others: a slice is wired as a whole
    alpha.jobset.sigs.k8s.io/exclusive-topology: cloud.google.com/gke-nodepool
spec:
  network:
    enableDNSHostnames: true
    publishNotReadyAddresses: true
  failurePolicy:
    maxRestarts: {restarts}
  replicatedJobs:
  - name: slice
    replicas: 1
    template:
      spec:
        parallelism: {hosts}
        completions: {hosts}
        completionMode: Indexed
        backoffLimit: 0
        template:
          spec:
            restartPolicy: Never
            terminationGracePeriodSeconds: {grace}
            nodeSelector:
              cloud.google.com/gke-tpu-accelerator: {label}
              cloud.google.com/gke-tpu-topology: {topology}
{spot}            containers:
            - name: herd
              image: {image}
              workingDir: /herd
              command:
{command}
              env:
{environment}
              ports:
              - containerPort: 8471  # between the workers' runtimes
              - containerPort: 8476  # jax.distributed, of process 0
              resources:
                limits:
                  google.com/tpu: {chips}
"""
SPOT = """              cloud.google.com/gke-spot: "true"
            tolerations:
            - key: cloud.google.com/gke-spot
              operator: Equal
              value: "true"
              effect: NoSchedule
"""


def jobset(job: Job, on: Slice, title: str, made: str) -> str:
    """The manifest."""
    words = "\n".join(f"              - {json.dumps(word)}" for word in job.command)
    known = "\n".join(
        f"              - name: {name}\n                value: {json.dumps(value)}"
        for name, value in job.environment.items()
    )
    # TPU7x pools are placed by a policy, the others by their topology
    placement = " --placement-policy=..." if on.booking.runtime is None else f" --tpu-topology={on.topology}"
    return TEXT.format(
        title=title, made=made, name=job.name, machine=on.machine, hosts=on.hosts, restarts=RESTARTS, grace=GRACE,
        placement=placement if on.hosts > 1 else "", label=on.booking.label, topology=on.topology,
        spot=SPOT if job.spot else "", image=job.image, command=words, environment=known, chips=on.per_host,
    )  # fmt: skip
