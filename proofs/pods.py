"""What books and starts pods is taken by the tools that it is written for, where they are on this machine.

    make proofs            # or: python proofs/pods.py --jobset jobset.x-k8s.io_jobsets.yaml

For a slice of every generation: `xpk --dry-run` must take its script, and make a manifest with the same nodes, hosts
and chips as our own; gcloud must take the arguments of every command that books, connects or frees (it reads them
before it asks who is calling, and without an account it stops there). With JobSet's own definition (config/crd/bases of
its repository), manifests are held against all of it, and names that it does not have are refused. Tools that are not
here are named, and nothing is claimed of them: gcloud comes with Google's SDK, xpk by `pip install xpk`.
"""

import argparse
import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import jsonschema
import yaml

from distill.pods.job import Job
from distill.pods.jobset import jobset
from distill.pods.queued import queued
from distill.pods.topology import read_topology
from distill.pods.xpk import xpk

JOB = Job(experiment="experiments/herd.py", name="herd", home="gs://some/where", image="an/image", spot=True)
SLICES = ("v4:2x2x4", "v5e:4x4", "v5e:16x16", "v5p:2x4x4", "v5p:8x8x8", "v6e:8x8", "tpu7x:4x4x4")
KNOWN = {"PROJECT": "some-project", "ZONE": "us-central1-a", "CLUSTER": "some", "IMAGE": "an/image"}


def asks(text: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs a script with nobody signed in."""
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder) / "script"
        script.write_text(text)
        alone = {"CLOUDSDK_CONFIG": folder, "CLOUDSDK_CORE_DISABLE_PROMPTS": "1", "HOME": folder}
        return subprocess.run(
            ["bash", script, *arguments], capture_output=True, text=True, env=os.environ | KNOWN | alone, cwd=folder
        )


def facts(manifest: dict[str, Any]) -> dict[str, Any]:
    """What two manifests of one job have to agree on."""
    (one,) = manifest["spec"]["replicatedJobs"]
    job = one["template"]["spec"]
    pod = job["template"]["spec"]
    nodes = {name: value for name, value in pod["nodeSelector"].items() if "gke-tpu" in name}
    chips = sum(int(each["resources"]["limits"]["google.com/tpu"]) for each in pod["containers"])
    return nodes | {"hosts": job["completions"], "at once": job["parallelism"], "chips of a host": chips}


def prove_xpk(text: str) -> None:
    """Takes its script, and means by it what our manifest says.

    Raises:
      RuntimeError: it does not.
    """
    on = read_topology(text)
    made = Path(tempfile.mkdtemp()) / "manifest.yaml"
    found = asks(xpk(JOB, on, "t", "m"), "--dry-run", "--skip-validation", "--output-manifest-file", str(made))  # pyright: ignore[reportArgumentType]
    if found.returncode or not made.exists():
        raise RuntimeError(f"xpk does not take {text}: {found.stdout[-1500:]} {found.stderr[-1500:]}")
    theirs, ours = facts(yaml.safe_load(made.read_text())), facts(yaml.safe_load(jobset(JOB, on, "t", "m")))
    if theirs != ours:
        raise RuntimeError(f"{text}: xpk makes {theirs}, and we {ours}")
    print(f"xpk takes {text}, and makes of it what we do: {ours}")


def prove_gcloud(text: str) -> None:
    """Takes the arguments of every command.

    Raises:
      RuntimeError: it does not, or something else is wrong than that nobody is signed in.
    """
    script = queued(JOB, read_topology(text), "t", "m")
    for what in ("book", "state", "run", "log", "stop", "free"):
        said = asks(script, what).stderr
        if "do not currently have an active account" not in said:
            raise RuntimeError(f"gcloud does not take {text}, {what}: {said[-1500:]}")
    print(f"gcloud takes the arguments of {text}: book, state, run, log, stop, free")


def strict(node: Any) -> Any:
    """A definition under which names that it does not have are refused."""
    if isinstance(node, dict):
        node = {name: strict(value) for name, value in node.items()}
        if node.get("x-kubernetes-int-or-string"):
            node.pop("type", None)
        if node.get("type") == "object" and "properties" in node:
            node.setdefault("additionalProperties", False)
        return node
    return [strict(one) for one in node] if isinstance(node, list) else node


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobset", type=Path, help="JobSet's custom resource definition")
    options = parser.parse_args()
    for tool in ("xpk", "gcloud"):
        if shutil.which(tool) is None:
            print(f"{tool} is not on this machine: nothing is said of it")
    for text in SLICES:
        if shutil.which("xpk"):
            prove_xpk(text)
        if shutil.which("gcloud") and text[:3] != "tpu":
            prove_gcloud(text)
    if options.jobset is None:
        print(
            "without --jobset manifests are held against the part of the definition in tests/data alone (`make unit`)"
        )
        return
    (version,) = yaml.safe_load(options.jobset.read_text())["spec"]["versions"]
    for text in SLICES:
        manifest = yaml.safe_load(jobset(JOB, read_topology(text), "t", "m"))
        jsonschema.validate(manifest, strict(version["schema"]["openAPIV3Schema"]))
    print(f"{len(SLICES)} manifests keep to JobSet's whole definition")


if __name__ == "__main__":
    main()
