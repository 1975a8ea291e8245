"""Files that book machines and start a run on them: every worker runs one command, on as many hosts as there are.

Commands that book, connect and queue are stood in for by scripts that write down what they were asked. proofs/pods.py
asks gcloud, xpk and JobSet's whole definition themselves.
"""

import json
import os
import re
import shlex
import signal
import subprocess
import time
from pathlib import Path

import jsonschema
import pytest
import yaml

from distill.chips import CHIPS
from distill.pods.__main__ import generate, main
from distill.pods.batch import batch
from distill.pods.job import Job, check
from distill.pods.jobset import jobset
from distill.pods.queued import queued
from distill.pods.topology import Cluster, Slice, read_topology
from distill.pods.xpk import xpk

ROOT = Path(__file__).resolve().parents[3]
SCHEMA = json.loads((ROOT / "tests/data/jobset.schema.json").read_text())
JOB = Job(experiment="experiments/herd.py", arguments=("--seeds", "2"), name="herd", home="gs://some/where")
COMMAND = shlex.split(
    "python -m distill.supervise -- python experiments/herd.py --run gs://some/where/herd --quiet --seeds 2"
)


@pytest.fixture
def asked(tmp_path, monkeypatch):
    """Runs a script with commands that write their arguments down; what they were asked, by command."""
    commands = tmp_path / "bin"
    commands.mkdir()
    for name in ("gcloud", "xpk", "git"):
        (commands / name).write_text(f'#!/bin/bash\nprintf "%s\\n" {name} "${{#@}}" "$@" >> {tmp_path}/asked\n')
        (commands / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{commands}{os.pathsep}{os.environ['PATH']}")
    for name in ("PROJECT", "ZONE", "CLUSTER", "IMAGE"):
        monkeypatch.setenv(name, name.lower())

    def run(text: str, *arguments: str) -> list[list[str]]:
        (tmp_path / "asked").write_text("")
        (tmp_path / "script").write_text(text)
        subprocess.run(["bash", tmp_path / "script", *arguments], check=True, capture_output=True)
        lines, found = (tmp_path / "asked").read_text(), []
        for line in re.split(r"^(?=(?:gcloud|xpk|git)\n\d+\n)", lines, flags=re.MULTILINE)[1:]:
            name, _, rest = line.split("\n", 2)
            found.append([name, *rest.removesuffix("\n").split("\n")])
        return found

    return run


def manifest(text: str):
    """A JobSet, once it keeps to its schema; and its pod."""
    found = yaml.safe_load(text)
    jsonschema.validate(found, SCHEMA)
    (job,) = found["spec"]["replicatedJobs"]
    return found, job["template"]["spec"], job["template"]["spec"]["template"]["spec"]


@pytest.mark.parametrize(("text", "hosts", "each", "label"), [
    ("v4:2x2x4", 4, 4, "tpu-v4-podslice"), ("v5e:2x4", 1, 8, "tpu-v5-lite-podslice"),
    ("v5p:8x8x8", 128, 4, "tpu-v5p-slice"), ("v6e:16x16", 64, 4, "tpu-v6e-slice"), ("tpu7x:4x4x8", 32, 4, "tpu7x"),
])  # fmt: skip
def test_a_jobset_keeps_to_its_schema_and_has_a_pod_for_every_host(text, hosts, each, label):
    found, job, pod = manifest(jobset(JOB, read_topology(text), "title", "made"))
    (container,) = pod["containers"]
    assert job["parallelism"] == job["completions"] == hosts and job["completionMode"] == "Indexed"
    assert container["resources"]["limits"] == {"google.com/tpu": each}
    place = {"gke-tpu-accelerator": label, "gke-tpu-topology": text.split(":")[1]}
    assert pod["nodeSelector"] == {f"cloud.google.com/{name}": value for name, value in place.items()}
    assert container["command"] == COMMAND
    assert container["env"] == [{"name": "JAX_COMPILATION_CACHE_DIR", "value": "gs://some/where/cache"}]
    assert found["spec"]["failurePolicy"]["maxRestarts"] > 0 == job["backoffLimit"], "all start again, or none"
    assert pod["restartPolicy"] == "Never" and pod["terminationGracePeriodSeconds"] >= 120


def test_a_jobset_of_machines_that_may_be_taken_away_says_so():
    spot = Job(experiment="e.py", name="herd", home="gs://some", spot=True, image="eu-docker.pkg.dev/p/r/herd:1.0")
    _, _, pod = manifest(jobset(spot, read_topology("v5e:4x4"), "title", "made"))
    assert pod["containers"][0]["image"] == spot.image
    assert pod["nodeSelector"]["cloud.google.com/gke-spot"] == pod["tolerations"][0]["value"] == "true"


def test_a_field_that_a_jobset_does_not_have_is_noticed():
    text = jobset(JOB, read_topology("v5e:4x4"), "title", "made")
    with pytest.raises(jsonschema.ValidationError, match="maxRetries"):
        manifest(text.replace("maxRestarts", "maxRetries"))


def test_a_queued_resource_is_booked_and_every_worker_started(asked):
    text = queued(JOB, read_topology("v5p:2x4x4"), "title", "made")
    (book,) = asked(text, "book")
    assert book[1:6] == ["compute", "tpus", "queued-resources", "create", "herd"]
    expected = {"--project=project", "--zone=zone", "--node-id=herd", "--accelerator-type=v5p-64"}
    assert expected | {"--runtime-version=v2-alpha-tpuv5"} == set(book[6:])
    ((*connect, _),) = asked(text, "stop")
    assert connect[1:6] == ["compute", "tpus", "tpu-vm", "ssh", "herd"] and connect[-1] == "--worker=all"
    assert {one[0] for one in asked(text, "set-up")} == {"git", "gcloud"}
    assert asked(text, "log")[0][8] == "--worker=0"


def test_a_worker_starts_the_command_and_outlives_the_connection(asked, tmp_path):
    """What `run` sends to the workers is run here, with a python that says what it was asked and stays."""
    ((*_, sent),) = [["\n".join(one)] for one in asked(queued(JOB, read_topology("v5e:4x4"), "title", "made"), "run")]
    sent = sent.partition("--command=")[2]
    python = tmp_path / "herd" / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text('#!/bin/bash\nprintf "%s\\n" "$JAX_COMPILATION_CACHE_DIR" "$@"\nexec sleep 30\n')
    python.chmod(0o755)
    subprocess.run(["bash", "-c", sent], cwd=tmp_path, check=True, timeout=5)
    log, end = tmp_path / "herd" / "herd.log", time.monotonic() + 5
    while not (log.exists() and len(log.read_text().splitlines()) >= len(COMMAND)) and time.monotonic() < end:
        time.sleep(0.02)
    assert log.read_text().splitlines() == ["gs://some/where/cache", *COMMAND[1:]]
    os.kill(int((tmp_path / "herd" / "herd.pid").read_text()), signal.SIGTERM)  # raises where there is none such


def test_v4_is_booked_by_its_shape_and_spot_by_a_flag(asked):
    spot = Job(experiment="e.py", name="herd", home="gs://some", spot=True)
    (book,) = asked(queued(spot, read_topology("v4:4x4x12"), "title", "made"), "book")
    assert {"--type=v4", "--topology=4x4x12", "--spot"} <= set(book)


@pytest.mark.parametrize(("text", "said"), [
    ("tpu7x:4x4x4", "the Cloud TPU API does not have tpu7x; GKE does"),
    ("v5p:4x4x12", "v5p-384 is not known to be 4x4x12; GKE takes it"),
])  # fmt: skip
def test_what_the_cloud_tpu_api_cannot_book_is_said(text, said):
    with pytest.raises(ValueError, match=said):
        queued(JOB, read_topology(text), "title", "made")


def test_xpk_is_given_the_same_command(asked):
    (found,) = asked(xpk(JOB, read_topology("v5p:8x8x8"), "title", "made"), "--dry-run")
    assert found[1:5] == ["workload", "create", "--workload", "herd"] and found[-1] == "--dry-run"
    options = dict(zip(found[3:-1:2], found[4:-1:2], strict=True))
    assert shlex.split(options["--command"]) == COMMAND and options["--tpu-type"] == "v5p-8x8x8"
    assert options["--env"] == "JAX_COMPILATION_CACHE_DIR=gs://some/where/cache"


SRUN = """#!/bin/bash
printf "%s\\n" "$JAX_LOCAL_DEVICE_IDS" "$@" > {folder}/srun.log
trap 'echo saved >> {folder}/saved; exit 130' TERM
echo $$ > {folder}/pid
for _ in $(seq 200); do sleep 0.05; done
"""
SCANCEL = '#!/bin/bash\necho "$@" >> {folder}/scancel.log\nkill -TERM $(cat {folder}/pid)\n'
SCONTROL = '#!/bin/bash\necho "$@" >> {folder}/scontrol.log\n'


@pytest.mark.parametrize(("sent", "code", "again"), [(signal.SIGUSR1, 0, True), (signal.SIGTERM, 130, False)])
def test_a_slurm_job_saves_when_its_time_is_up_and_is_queued_again(tmp_path, sent, code, again):
    for name, text in {"srun": SRUN, "scancel": SCANCEL, "scontrol": SCONTROL}.items():
        (tmp_path / name).write_text(text.format(folder=tmp_path))
        (tmp_path / name).chmod(0o755)
    (tmp_path / "scontrol.log").touch()
    script = tmp_path / "slurm.sh"
    script.write_text(batch(JOB, Cluster("h100", 2, 8), "title", "made", by_host=again))
    known = os.environ | {"PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}", "SLURM_JOB_ID": "7"}
    process = subprocess.Popen(["bash", script], env=known, cwd=tmp_path)
    end = time.monotonic() + 5
    while not (tmp_path / "pid").exists() and time.monotonic() < end:
        time.sleep(0.02)
    time.sleep(0.1)
    process.send_signal(sent)
    assert process.wait(10) == code and (tmp_path / "saved").read_text() == "saved\n"
    assert (tmp_path / "scancel.log").read_text() == "--signal=TERM 7.0\n"
    assert (tmp_path / "scontrol.log").read_text().split() == (["requeue", "7"] if again else [])
    devices, *started = (tmp_path / "srun.log").read_text().splitlines()
    assert started[1:] == COMMAND and devices == ("0,1,2,3,4,5,6,7" if again else "")


def test_a_slurm_job_asks_for_a_process_a_gpu_or_one_a_host():
    for by_host, tasks in ((False, 8), (True, 1)):
        text = batch(JOB, Cluster("h100", 4, 8), "title", "made", hours=12, by_host=by_host)
        asked = dict(re.findall(r"^#SBATCH --([\w-]+)=(.*)$", text, re.MULTILINE))
        assert (asked["nodes"], asked["ntasks-per-node"], asked["gpus-per-node"]) == ("4", str(tasks), "8")
        assert asked["time"] == "12:00:00" and asked["signal"] == "B:USR1@300" and "#SBATCH --requeue" in text


def test_a_teacher_on_devices_of_its_own_needs_them_too():
    apart = Job(experiment="experiments/pods/maverick_from_behemoth.py", name="apart", home="gs://some")
    assert check(apart, 128 + 512).mesh.size == 128
    with pytest.raises(ValueError, match="uses 640 devices .* has 512"):
        check(apart, 512)


def test_what_the_command_is_told_reaches_the_files(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    common = ["experiments/herd.py", "--name", "herd", "--output", str(tmp_path)]
    main([*common, "--topology", "v5e:1x1", "--bucket", "gs://some", "--spot", "--image", "a/b:1"])
    main([*common, "--topology", "h100:1x1", "--bucket", "/some", "--hours", "7", "--by-host"])
    made = {path.name: path.read_text() for path in tmp_path.iterdir()}
    assert "image: a/b:1\n" in made["jobset.yaml"] and "gke-spot" in made["jobset.yaml"]
    assert "--spot" in made["queued.sh"] and "--spot" in made["xpk.sh"]
    assert "--time=7:00:00" in made["slurm.sh"] and "JAX_LOCAL_DEVICE_IDS=0\n" in made["slurm.sh"]


def test_a_slurm_job_without_time_is_refused():
    with pytest.raises(ValueError, match="--hours 0: a job needs at least 1, of which the last 300 s are for saving"):
        batch(JOB, Cluster("h100", 4, 8), "title", "made", hours=0)


def test_names_of_the_longest_job_are_names_to_kubernetes():
    """A pod is called NAME-slice-0-HOST and five letters; labels and host names have 63."""
    booked = [(chip, chip.booking.shapes) for chip in CHIPS.values() if chip.booking is not None]
    largest = max(Slice(chip, shape).hosts for chip, shapes in booked for shape in shapes)
    name = Job(experiment="e.py", name="a" * 40, home="gs://some").name
    assert len(f"{name}-slice-0-{largest - 1}-abcde") <= 63
    with pytest.raises(ValueError, match="at most 40 small letters"):
        Job(experiment="e.py", name="a" * 41, home="gs://some")


def test_a_folder_that_cannot_be_made_is_said(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(SystemExit, match=r"error: .*Not a directory|error: .*File exists"):
        main([str(ROOT / "experiments/herd.py"), "--topology", "h100:1x1", "--name", "herd", "--bucket", "/shared",
              "--output", str(tmp_path / "file" / "made")])  # fmt: skip


def test_meshes_that_do_not_fill_the_chips_are_refused_with_flags_that_would():
    with pytest.raises(ValueError, match=r"uses 1 devices .*has 16; set --mesh.data 1 --mesh.fsdp 16 \(and rows"):
        check(JOB, 16)
    four = Job(experiment=JOB.experiment, arguments=("--mesh.fsdp", "4"), name="herd", home="gs://some")
    with pytest.raises(ValueError, match=r"uses 4 devices .*has 16; set --mesh.data 4 .* or name a topology of 4"):
        check(four, 16)
    assert check(four, 4).mesh.fsdp == 4


@pytest.mark.parametrize(("changed", "said"), [
    ({"name": "Herd_1"}, "--name Herd_1: a job is named by at most 40 small letters"),
    ({"home": "runs"}, "--bucket runs: name gs://BUCKET, or the path of a folder that all hosts share"),
    ({"home": "gs://"}, "--bucket gs://: name gs://BUCKET"),
    ({"home": "gs://some; rm -rf $HOME"}, "--bucket 'gs://some; rm -rf .HOME': write it with letters, digits and"),
    ({"home": "/shared\nruns"}, "without spaces"), ({"home": "/it's"}, "without spaces"),
    ({"image": "an-image\nevil: 1"}, "--image 'an-image.nevil: 1': name a container as HOST/PATH:TAG"),
    ({"arguments": ("--run", "x")}, "--run is gs://some/herd, by --bucket and --name; leave it out"),
])  # fmt: skip
def test_a_job_that_could_not_be_started_is_refused(changed, said):
    with pytest.raises(ValueError, match=said):
        Job(**({"experiment": "e.py", "name": "herd", "home": "gs://some"} | changed))


def test_a_slice_needs_a_bucket():
    four = Job(experiment=JOB.experiment, arguments=("--mesh.fsdp", "4"), name="herd", home="/shared")
    with pytest.raises(ValueError, match="--bucket /shared: hosts of a TPU slice share no folder; name a bucket"):
        generate(four, read_topology("v5e:2x2"))


def test_what_is_committed_is_what_the_commands_of_its_readme_make(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    text = (ROOT / "experiments/tpu/README.md").read_text().replace("\\\n", " ")
    commands = [shlex.split(line) for line in re.findall(r"^python -m distill.pods (.*)$", text, re.MULTILINE)]
    assert len(commands) == 2
    for words in commands:
        folder = ROOT / words[words.index("--output") + 1]
        main([str(tmp_path / folder.name) if word.startswith("experiments/tpu/") else word for word in words])
        made = {path.name: path.read_text() for path in (tmp_path / folder.name).iterdir()}
        assert made == {path.name: path.read_text() for path in folder.iterdir()}
        for path in folder.glob("*.sh"):
            subprocess.run(["bash", "-n", path], check=True)
    assert "every worker runs: python -m distill.supervise -- python experiments/herd.py" in capsys.readouterr().out
