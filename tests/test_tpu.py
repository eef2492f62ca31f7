"""The scripts in tpu/: what they would run, and what they do when gcloud, kubectl and the hosts are played here."""

import json
import math
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
NEEDED = ["bash", "flock", "setsid", "git"]
pytestmark = pytest.mark.skipif(
    not all(map(shutil.which, NEEDED)), reason=f"the scripts need {', '.join(NEEDED)} (Linux)"
)

SCRIPTS = sorted(path.relative_to(ROOT).as_posix() for path in ROOT.glob("tpu/**/*.sh") if os.access(path, os.X_OK))
WHERE = {"PROJECT": "proj", "ZONE": "us-west4-a", "NAME": "egpo"}
SINGLE, MULTI = WHERE | {"TYPE": "v5litepod-8"}, WHERE | {"TYPE": "v5litepod-16"}
SLICES = WHERE | {"TYPE": "v5p-16", "SLICES": "2", "SPOT": "1", "SERVICE_ACCOUNT": "a@proj"}
STORED = {"BUCKET": "rl", "IMAGE": "registry/jaxfc:1"}
TRAIN = ["scripts/train_rl.py", "--config", "configs/real_rl.yaml", "output=/gcs/runs"]
AWKWARD = [
    "scripts/train_rl.py",
    "name=it's a run",
    'q="x"',
    "v=$HOME `id` $(id)",
    "l=[1,2]",
    "",
    "a\\b",
    "line\nbreak",
    "*",
]

# Every host is a folder under FAKE/hosts. A queued resource is the file FAKE/state; kubectl only writes down.
FAKE = """#!{python}
import json, os, pathlib, shutil, subprocess, sys
fake = pathlib.Path(os.environ["FAKE"])
program, arguments = pathlib.Path(sys.argv[0]).name, sys.argv[1:]
piped = sys.stdin.read() if arguments[-2:] == ["-f", "-"] else None
with (fake / "calls").open("a") as calls:
    calls.write(json.dumps([program, *arguments]) + "\\n")
(fake / "stdin").write_text(piped) if piped else None
state, hosts = fake / "state", fake / "hosts"
folders = [hosts / str(i) for i in range(int(os.environ.get("FAKE_HOSTS", "1")))]
verb = arguments[3] if arguments[:3] == ["compute", "tpus", "queued-resources"] else None
option = {{key: value for key, _, value in (a.partition("=") for a in arguments if a.startswith("--"))}}
if arguments[1:3] == ["get", "serviceaccount"]:
    sys.exit(1)
if verb == "create":
    if state.exists():
        sys.exit(1)
    created = fake / "created"
    plan = created.read_text().split() if created.exists() else []
    state.write_text(plan[0] if plan else "ACTIVE")
    created.write_text(" ".join(plan[1:]))
    for folder in folders:
        folder.mkdir(parents=True)
elif verb == "delete":
    state.unlink()
    (fake / "unreachable").unlink(missing_ok=True)
    hosts.rename(fake / f"gone-{{os.getpid()}}")
elif verb in ("list", "describe"):
    print(state.read_text() if state.exists() else "")
elif verb == "scp":
    for folder in folders:
        shutil.copy(arguments[4], folder)
elif verb == "ssh" and (fake / "unreachable").exists():
    sys.exit(255)
elif verb == "ssh":
    code = 0
    for folder in folders if option["--worker"] == "all" else folders[:1]:
        environment = os.environ | {{"HOME": str(folder)}}
        done = subprocess.run(["bash", "-c", option["--command"]], cwd=folder, env=environment)
        code = code or done.returncode
    sys.exit(code)
"""

# Takes the next line of FAKE/plan on this host: what the training script does.
FAKE_PYTHON = """#!{python}
import json, os, pathlib, signal, sys, time
fake, home, mount = (pathlib.Path(os.environ[name]) for name in ("FAKE", "HOME", "MOUNT"))
folder = next((a[7:] for a in sys.argv if a.startswith("output=")), str(mount / "runs"))
if sys.argv[1] == "tpu/run_folder.py":
    print(folder + "/egpo")
    sys.exit()
signal.signal(signal.SIGTERM, lambda *_: sys.exit(75))
with (fake / f"received-{{home.name}}").open("a+") as received:
    received.write(json.dumps(sys.argv[1:]) + "\\n")
    received.seek(0)
    act = (fake / "plan").read_text().split()[len(received.readlines()) - 1]
if act == "finish":
    sys.exit(0)
elif act == "preempted":
    # All hosts leave at the same step, and then the slices are gone.
    (fake / f"left-{{home.name}}").touch()
    while len(list(fake.glob("left-*"))) < int(os.environ["FAKE_HOSTS"]):
        time.sleep(0.01)
    (fake / "state").write_text("SUSPENDED")
    sys.exit(75)
elif act == "wait":
    time.sleep(60)
else:
    sys.exit(int(act))
"""

FAKE_UV = """#!/bin/bash
# uv venv ... FOLDER makes an environment whose python is the one above; uv pip install does nothing.
[ "$1" = venv ] || exit 0
mkdir -p "${@: -1}/bin"
cp "$FAKE/python" "${@: -1}/bin/python"
"""


class Cloud:
    """A copy of the scripts in a repository of its own, with programs that play the cloud."""

    def __init__(self, folder: Path):
        self.folder, self.fake, self.tree = folder, folder / "fake", folder / "tree"
        self.mount = folder / "gcs"
        binaries = self.fake / "bin"
        binaries.mkdir(parents=True)
        for name in ("gcloud", "kubectl", "docker", "gcsfuse"):
            self._write(binaries / name, FAKE.format(python=sys.executable))
        self._write(binaries / "uv", FAKE_UV)
        self._write(binaries / "mountpoint", "#!/bin/bash\nexit 1\n")
        self._write(binaries / "sudo", '#!/bin/bash\nexec "$@"\n')
        self._write(self.fake / "python", FAKE_PYTHON.format(python=sys.executable))
        shutil.copytree(ROOT / "tpu", self.tree / "tpu")
        git = ["git", "-c", "user.name=t", "-c", "user.email=t@t"]
        for command in (["init", "-q"], ["add", "."], ["commit", "-qm", "x"]):
            subprocess.run([*git, *command], cwd=self.tree, check=True)
        self.environment = {
            "PATH": f"{binaries}:{os.environ['PATH']}",
            "HOME": str(folder),
            "FAKE": str(self.fake),
            "POLL": "0",
            "FAKE_HOSTS": "1",
        }

    @staticmethod
    def _write(path: Path, text: str):
        path.write_text(text)
        path.chmod(0o755)

    def run(self, script: str, *arguments: str, settings=None, hosts: int = 1) -> subprocess.CompletedProcess:
        environment = self.environment | {"FAKE_HOSTS": str(hosts)} | (settings or {})
        return subprocess.run(
            [self.tree / script, *arguments],
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
        )

    def plan(self, *acts: str):
        (self.fake / "plan").write_text(" ".join(acts))

    def calls(self) -> list[list[str]]:
        path = self.fake / "calls"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def verbs(self) -> list[str]:
        """What was done to the queued resource, reading aside."""
        verbs = [call[4] for call in self.calls() if call[1:4] == ["compute", "tpus", "queued-resources"]]
        return [verb for verb in verbs if verb in ("create", "delete", "scp")]

    def received(self, host: int = 0) -> list[list[str]]:
        """The arguments of each start of the training script on a host."""
        path = self.fake / f"received-{host}"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


@pytest.fixture
def cloud(tmp_path) -> Cloud:
    return Cloud(tmp_path)


@pytest.fixture
def ready(cloud) -> Cloud:
    """Two hosts, set up."""
    settings = WHERE | STORED | {"TYPE": "v5p-16", "MOUNT": str(cloud.mount)}
    cloud.environment |= settings | {"FAKE_HOSTS": "2"}
    for script in ("tpu/create.sh", "tpu/setup.sh"):
        done = cloud.run(script, hosts=2)
        assert done.returncode == 0, done.stderr
    return cloud


def shown(cloud: Cloud, script: str, settings: dict[str, str], *arguments: str) -> list[str]:
    """The commands that a dry run prints; nothing may be called for them."""
    done = cloud.run(script, "--dry-run", *arguments, settings=settings)
    assert done.returncode == 0, done.stderr
    assert cloud.calls() == []
    return done.stdout.splitlines()


def wait_for(condition, seconds: float = 20):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


# What would be run

QUEUED = "gcloud compute tpus queued-resources"
AT = "egpo --project=proj --zone=us-west4-a"
ALL = f"{QUEUED} ssh {AT} --node=all --worker=all"


def test_one_host_is_one_node(cloud):
    assert shown(cloud, "tpu/create.sh", SINGLE) == [
        f"{QUEUED} create {AT} --accelerator-type=v5litepod-8 --runtime-version=v2-alpha-tpuv5-lite --node-id=egpo"
    ]


def test_several_hosts_are_one_node_too(cloud):
    assert shown(cloud, "tpu/create.sh", MULTI) == [
        f"{QUEUED} create {AT} --accelerator-type=v5litepod-16 --runtime-version=v2-alpha-tpuv5-lite --node-id=egpo"
    ]


def test_several_slices_are_nodes_of_one_request(cloud):
    assert shown(cloud, "tpu/create.sh", SLICES) == [
        f"{QUEUED} create {AT} --accelerator-type=v5p-16 --runtime-version=v2-alpha-tpuv5"
        " --node-count=2 --node-prefix=egpo --spot --service-account=a@proj"
    ]


def test_flags_go_before_the_environment(cloud):
    (line,) = shown(cloud, "tpu/create.sh", MULTI, "--type=v6e-16", "--name", "other", "--zone=us-east5-b")
    assert line == (
        f"{QUEUED} create other --project=proj --zone=us-east5-b --accelerator-type=v6e-16"
        " --runtime-version=v2-alpha-tpuv6e --node-id=other"
    )


@pytest.mark.parametrize("settings", [SINGLE, MULTI, SLICES], ids=["single", "multi", "slices"])
def test_code_goes_to_every_host_of_every_slice(cloud, settings):
    assert shown(cloud, "tpu/setup.sh", settings | STORED) == [
        "mkdir -p build",
        "git archive --format=tar.gz --prefix=jaxfc/ --output=build/jaxfc.tar.gz HEAD",
        f"{QUEUED} scp build/jaxfc.tar.gz egpo: --project=proj --zone=us-west4-a --node=all --worker=all",
        f"{ALL} --command='rm -rf jaxfc && tar xzf jaxfc.tar.gz && bash jaxfc/tpu/host.sh setup rl /gcs'",
    ]


@pytest.mark.parametrize("settings", [SINGLE, MULTI, SLICES], ids=["single", "multi", "slices"])
def test_the_command_starts_on_every_host_of_every_slice(cloud, settings):
    assert shown(cloud, "tpu/launch.sh", settings, "--", *TRAIN) == [
        f"{ALL} --command='bash jaxfc/tpu/host.sh start /gcs"
        " scripts/train_rl.py --config configs/real_rl.yaml output=/gcs/runs'"
    ]


def test_the_other_verbs(cloud):
    assert shown(cloud, "tpu/status.sh", WHERE) == [
        f"{QUEUED} describe {AT} --format='value(state.state)'",
        f"{ALL} --command='bash jaxfc/tpu/host.sh status || echo jaxfc: none'",
    ]
    assert shown(cloud, "tpu/logs.sh", WHERE, "--tail=5") == [f"{ALL} --command='tail -n 5 .jaxfc/log'"]
    assert shown(cloud, "tpu/logs.sh", WHERE, "--follow") == [
        f"{QUEUED} ssh {AT} --node=0 --worker=0 --command='tail -n 100 -F .jaxfc/log'"
    ]
    assert shown(cloud, "tpu/stop.sh", WHERE) == [f"{ALL} --command='bash jaxfc/tpu/host.sh stop'"]
    assert shown(cloud, "tpu/delete.sh", WHERE) == [f"{QUEUED} delete {AT} --force --quiet"]


def test_keep_shows_what_it_may_run(cloud):
    lines = shown(cloud, "tpu/keep.sh", SLICES | STORED, "--", *AWKWARD)
    commands = [shlex.split(line) for line in "\n".join(lines).split("\ngcloud ")[1:]]
    assert [command[3] for command in commands] == ["create", "scp", "ssh", "ssh", "delete"]


def test_gke_makes_one_pool_per_slice(cloud):
    lines = shown(cloud, "tpu/gke/create.sh", SLICES)
    pool = "--cluster=egpo --project=proj --location=us-west4-a --machine-type=ct5p-hightpu-4t --num-nodes=2"
    assert lines[-2:] == [
        f"gcloud container node-pools create egpo-{i} {pool} --tpu-topology=2x2x2 --spot"
        " --workload-metadata=GKE_METADATA"
        for i in range(2)
    ]
    assert lines[0].startswith("gcloud container clusters create egpo --project=proj --location=us-west4-a ")
    assert "--workload-pool=proj.svc.id.goog --addons=GcsFuseCsiDriver" in lines[0]
    assert lines[1] == "gcloud container clusters get-credentials egpo --project=proj --location=us-west4-a"
    assert all("--context=gke_proj_us-west4-a_egpo" in line for line in lines if line.startswith("kubectl"))


def test_gke_gives_one_host_no_topology(cloud):
    *_, line = shown(cloud, "tpu/gke/create.sh", SINGLE | {"SERVICE_ACCOUNT": "a@proj"})
    assert "--machine-type=ct5lp-hightpu-8t --num-nodes=1 --workload-metadata" in line


def test_gke_shapes_tpu7x_by_a_policy(cloud):
    settings = SLICES | {"TYPE": "tpu7x-128"}
    lines = shown(cloud, "tpu/gke/create.sh", settings)
    assert lines[-3] == (
        "gcloud compute resource-policies create workload-policy egpo --project=proj --region=us-west4"
        " --type=HIGH_THROUGHPUT --accelerator-topology=4x4x4"
    )
    assert "--machine-type=tpu7x-standard-4t --num-nodes=16 --placement-policy=egpo --spot" in lines[-1]
    assert shown(cloud, "tpu/gke/delete.sh", settings) == [
        "gcloud container clusters delete egpo --project=proj --location=us-west4-a --quiet",
        "gcloud compute resource-policies delete egpo --project=proj --region=us-west4 --quiet",
    ]


def test_gke_uses_and_spares_a_cluster_of_another_name(cloud):
    settings = SLICES | {"CLUSTER": "ours"}
    assert not any("clusters create" in line for line in shown(cloud, "tpu/gke/create.sh", settings))
    assert shown(cloud, "tpu/gke/delete.sh", settings) == [
        "kubectl --context=gke_proj_us-west4-a_ours delete jobset egpo --ignore-not-found",
        *[
            f"gcloud container node-pools delete egpo-{i} --cluster=ours --project=proj --location=us-west4-a --quiet"
            for i in range(2)
        ],
    ]


def test_gke_image_is_built_from_the_tracked_files(cloud):
    assert shown(cloud, "tpu/gke/setup.sh", STORED) == [
        "mkdir -p build",
        "git archive --format=tar.gz --output=build/image.tar.gz HEAD",
        "docker build --platform=linux/amd64 --file=tpu/gke/Dockerfile --tag=registry/jaxfc:1 - <build/image.tar.gz",
        "docker push registry/jaxfc:1",
    ]


def test_gke_logs_and_status(cloud):
    context = "kubectl --context=gke_proj_us-west4-a_egpo"
    assert shown(cloud, "tpu/gke/logs.sh", WHERE) == [
        f"{context} logs --selector=jobset.sigs.k8s.io/jobset-name=egpo --container=train --prefix --tail=100"
    ]
    assert shown(cloud, "tpu/gke/logs.sh", WHERE, "--follow") == [
        f"{context} logs --selector=jobset.sigs.k8s.io/jobset-name=egpo,jobset.sigs.k8s.io/job-index=0,"
        "batch.kubernetes.io/job-completion-index=0 --container=train --prefix --tail=100 --follow"
    ]
    assert shown(cloud, "tpu/gke/status.sh", WHERE)[0] == f"{context} get jobset egpo"
    assert shown(cloud, "tpu/gke/stop.sh", WHERE) == [f"{context} delete jobset egpo --cascade=foreground"]


@pytest.mark.parametrize("script", [script for script in SCRIPTS if script != "tpu/keep.sh"])
def test_what_a_dry_run_shows_does_what_the_script_does(ready, script):
    def changes() -> list[list[str]]:
        calls = [call for call in ready.calls() if not ({"list", "get"} & set(call) or "host.sh status" in call[-1])]
        (ready.fake / "calls").unlink()
        return calls

    ready.plan("finish", "finish")
    settings = {"SLICES": "2", "SERVICE_ACCOUNT": "a@proj"}
    command = ["--", *AWKWARD] if "launch" in script else []
    lines = ready.run(script, "--dry-run", *command, settings=settings, hosts=2).stdout
    changes()
    ready.run(script, "--yes", *command, settings=settings, hosts=2)
    done = changes()
    subprocess.run(["bash", "-c", lines], cwd=ready.tree, env=ready.environment | settings, capture_output=True)
    assert changes() == done


# What is refused


@pytest.mark.parametrize("script", SCRIPTS)
def test_missing_settings_are_named_with_an_example(cloud, script):
    done = cloud.run(script)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert re.search(r"missing --(project|image).*give --(project=my-project|image=IMAGE)", done.stderr)
    assert cloud.calls() == []


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_says_what_it_does_and_every_option(cloud, script):
    done = cloud.run(script, "--help")
    assert done.returncode == 0
    assert f"Usage: {script}" in done.stdout
    assert "--dry-run" in done.stdout and "--slices" in done.stdout


def test_an_unknown_type_is_refused_with_the_known_ones(cloud):
    done = cloud.run("tpu/create.sh", settings=WHERE | {"TYPE": "v5e-16"})
    assert done.returncode == 2
    assert "unknown TPU type v5e-16; known: v5litepod-4, v5litepod-8, v5litepod-16," in done.stderr
    assert "tpu7x-1024." in done.stderr


@pytest.mark.parametrize(
    ("script", "settings", "arguments", "says"),
    [
        ("tpu/create.sh", MULTI | {"TYPE": "tpu7x-128"}, [], "only on GKE"),
        ("tpu/create.sh", MULTI, ["--zome=x"], "unknown option --zome"),
        ("tpu/create.sh", MULTI, ["--zone"], "--zone needs a value"),
        ("tpu/create.sh", MULTI | {"SLICES": "0"}, [], "a number from 1"),
        ("tpu/create.sh", MULTI, ["now"], "now is no option"),
        ("tpu/launch.sh", MULTI, [], "missing the command to launch"),
        ("tpu/gke/create.sh", SINGLE | {"SLICES": "2", "SERVICE_ACCOUNT": "a"}, [], "several hosts only"),
    ],
)
def test_mistakes_end_with_code_2_and_no_call(cloud, script, settings, arguments, says):
    done = cloud.run(script, *arguments, settings=settings)
    assert (done.returncode, cloud.calls()) == (2, [])
    assert says in done.stderr


def test_deleting_names_what_goes_and_needs_a_yes(ready):
    done = ready.run("tpu/delete.sh", hosts=2)
    assert done.returncode == 2
    assert "the queued resource egpo in proj, us-west4-a, and all of its TPU VMs" in done.stderr
    assert "--yes" in done.stderr
    assert "delete" not in ready.verbs()
    assert ready.run("tpu/delete.sh", "--yes", hosts=2).returncode == 0
    assert ready.verbs()[-1] == "delete"


# What is done on the hosts


def launch(cloud: Cloud, *command: str) -> subprocess.CompletedProcess:
    return cloud.run("tpu/launch.sh", "--", *(command or ("scripts/train_rl.py", "seed=1")), hosts=2)


def exit_codes(cloud: Cloud) -> list[str]:
    return [path.read_text().strip() for path in sorted(cloud.fake.glob("hosts/*/.jaxfc/exit"))]


def test_arguments_reach_the_script_on_every_host_as_given(ready):
    ready.plan("finish")
    assert launch(ready, *AWKWARD).returncode == 0
    wait_for(lambda: exit_codes(ready) == ["0", "0"])
    assert ready.received(0) == ready.received(1) == [AWKWARD]


def test_setup_mounts_the_bucket_on_every_host(ready):
    mounted = [call for call in ready.calls() if call[0] == "gcsfuse"]
    assert mounted == [["gcsfuse", "--implicit-dirs", "--metadata-cache-ttl-secs=0", "rl", str(ready.mount)]] * 2


def test_a_run_outlives_the_connection_and_is_not_started_twice(ready):
    ready.plan("wait")
    assert launch(ready).returncode == 0
    wait_for(lambda: ready.received(0) and ready.received(1))
    status = ready.run("tpu/status.sh", hosts=2).stdout.split("\n")
    assert status.count("jaxfc: running") == 2
    again = launch(ready)
    assert again.returncode == 2 and "a run is going on on egpo" in again.stderr
    assert ready.run("tpu/setup.sh", hosts=2).returncode == 2
    # Asked all the same, the host itself refuses.
    home = ready.fake / "hosts" / "0"
    direct = subprocess.run(
        ["bash", "jaxfc/tpu/host.sh", "start", str(ready.mount), "scripts/train_rl.py"],
        cwd=home,
        env=ready.environment | {"HOME": str(home)},
        capture_output=True,
        text=True,
    )
    assert direct.returncode == 3 and "A run is going on" in direct.stderr
    assert len(ready.received(0)) == 1
    # The script has saved and left, which is not the end of the run.
    assert ready.run("tpu/stop.sh", hosts=2).returncode == 0
    wait_for(lambda: exit_codes(ready) == ["75", "75"])


def test_a_killed_run_is_not_taken_for_a_running_one(ready):
    ready.plan("wait")
    launch(ready)
    wait_for(lambda: ready.received(0) and ready.received(1))
    for pid in ready.fake.glob("hosts/*/.jaxfc/pid"):
        os.killpg(int(pid.read_text()), 9)
    wait_for(lambda: ready.run("tpu/status.sh", hosts=2).stdout.count("jaxfc: ended 137") == 2)


def test_a_folder_outside_the_bucket_is_refused_before_the_start(ready):
    ready.plan("finish")
    done = launch(ready, "scripts/train_rl.py", "output=runs")
    assert done.returncode == 2
    assert f"give a folder in the bucket: output={ready.mount}/runs" in done.stderr
    assert ready.received(0) == []


def test_logs_show_every_host(ready):
    ready.plan("finish")
    launch(ready)
    wait_for(lambda: exit_codes(ready) == ["0", "0"])
    assert ready.run("tpu/logs.sh", hosts=2).stdout.count("ended with exit code 0") == 2


def test_the_run_folder_is_the_one_of_the_settings():
    def folder(*arguments):
        command = [sys.executable, "tpu/run_folder.py", *arguments]
        return subprocess.run(
            command, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True
        )

    config = ["--config", "configs/real_rl.yaml"]
    assert folder("scripts/train_rl.py", *config, "output=/gcs/runs", "name=x y").stdout == "/gcs/runs/x y\n"
    assert folder("scripts/train_rl.py", *config).stdout == f"{ROOT}/runs/real-rl\n"
    assert folder("scripts/train_rl.py", *config, "--dry-run").stdout == ""
    assert folder("scripts/evaluate.py", "--anything").stdout == ""
    wrong = folder("scripts/train_sft.py", "--config", "configs/real_sft.yaml", "nmae=x")
    assert wrong.returncode == 2 and "nmae" in wrong.stderr


# What is done when TPUs are taken away


def keep(cloud: Cloud, *arguments: str) -> subprocess.CompletedProcess:
    settings = WHERE | STORED | {"TYPE": "v5p-16", "SPOT": "1", "MOUNT": str(cloud.mount)}
    return cloud.run("tpu/keep.sh", *arguments, "--", *AWKWARD, settings=settings, hosts=2)


def test_after_a_preemption_the_same_command_goes_on(cloud):
    cloud.plan("preempted", "finish")
    done = keep(cloud)
    assert done.returncode == 0, done.stderr
    assert cloud.verbs() == ["create", "scp", "delete", "create", "scp"]
    creates = [call for call in cloud.calls() if "create" in call]
    assert creates[0] == creates[1] and "--spot" in creates[0]
    assert cloud.received(0) == cloud.received(1) == [AWKWARD, AWKWARD]
    # It may be the second, if the run was seen to have left before the slices were.
    assert re.search("SUSPENDED; restart [12] of 20", done.stderr)
    assert "the run has finished" in done.stderr


def test_a_request_that_fails_is_made_again(cloud):
    cloud.plan("finish")
    (cloud.fake / "created").write_text("FAILED ACTIVE")
    done = keep(cloud)
    assert done.returncode == 0, done.stderr
    assert cloud.verbs() == ["create", "delete", "create", "scp"]
    assert cloud.received(0) == [AWKWARD]


def test_a_run_that_dies_is_started_again_on_the_same_tpus(cloud):
    cloud.plan("134", "finish")
    done = keep(cloud)
    assert done.returncode == 0, done.stderr
    assert cloud.verbs() == ["create", "scp", "scp"]
    assert cloud.received(1) == [AWKWARD, AWKWARD]
    assert "the run ended 134; restart 1 of 20" in done.stderr


def test_hosts_that_stay_out_of_reach_are_replaced(ready):
    ready.plan("finish")
    (ready.fake / "unreachable").touch()
    done = keep(ready)
    assert done.returncode == 0, done.stderr
    assert ready.verbs() == ["create", "scp", "delete", "create", "scp"]
    looks = [call for call in ready.calls() if "host.sh status" in call[-1]]
    assert "unreachable; restart 1 of 20" in done.stderr and len(looks) >= 10


def test_restarts_are_bounded(cloud):
    cloud.plan("1", "1", "1", "1")
    done = keep(cloud, "--restarts=2")
    assert done.returncode == 1
    assert len(cloud.received(0)) == 3
    assert "started again 2 times" in done.stderr


def test_settings_that_are_refused_are_not_tried_again(cloud):
    cloud.plan("2")
    assert keep(cloud).returncode == 2
    assert len(cloud.received(0)) == 1


def test_keep_takes_up_a_run_that_is_going_on(ready):
    ready.plan("75", "finish")
    launch(ready, *AWKWARD)
    assert keep(ready).returncode == 0
    assert ready.verbs() == ["create", "scp", "scp"]
    assert ready.received(0) == [AWKWARD, AWKWARD]


# GKE


def manifest(cloud: Cloud, settings: dict[str, str], *command: str) -> dict:
    done = cloud.run("tpu/gke/launch.sh", "--", *command, settings=settings | STORED)
    assert done.returncode == 0, done.stderr
    assert cloud.calls()[-1] == ["kubectl", "--context=gke_proj_us-west4-a_egpo", "create", "-f", "-"]
    return yaml.safe_load((cloud.fake / "stdin").read_text())


@pytest.mark.parametrize(
    ("kind", "slices", "accelerator", "topology", "hosts", "chips"),
    [
        ("v5litepod-8", 1, "tpu-v5-lite-podslice", "2x4", 1, 8),
        ("v5litepod-16", 1, "tpu-v5-lite-podslice", "4x4", 4, 4),
        ("v5p-128", 2, "tpu-v5p-slice", "4x4x4", 16, 4),
        ("v6e-16", 3, "tpu-v6e-slice", "4x4", 4, 4),
        ("tpu7x-16", 2, "tpu7x", "2x2x2", 2, 4),
    ],
)
def test_the_jobset_has_a_job_per_slice_and_a_pod_per_host(cloud, kind, slices, accelerator, topology, hosts, chips):
    job_set = manifest(cloud, WHERE | {"TYPE": kind, "SLICES": str(slices)}, *TRAIN)
    assert (job_set["apiVersion"], job_set["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")
    assert job_set["metadata"]["annotations"] == {
        "alpha.jobset.sigs.k8s.io/exclusive-topology": "cloud.google.com/gke-nodepool"
    }
    (group,) = job_set["spec"]["replicatedJobs"]
    job = group["template"]["spec"]
    pod = job["template"]["spec"]
    (container,) = pod["containers"]
    assert (group["replicas"], job["parallelism"], job["completions"]) == (slices, hosts, hosts)
    assert pod["nodeSelector"] == {
        "cloud.google.com/gke-tpu-accelerator": accelerator,
        "cloud.google.com/gke-tpu-topology": topology,
    }
    assert container["resources"] == {"requests": {"google.com/tpu": chips}, "limits": {"google.com/tpu": chips}}
    assert container["image"] == "registry/jaxfc:1"


def test_the_jobset_restarts_the_same_command_but_not_a_refused_one(cloud):
    spec = manifest(cloud, MULTI | {"RESTARTS": "7"}, *TRAIN)["spec"]
    job = spec["replicatedJobs"][0]["template"]["spec"]
    assert spec["failurePolicy"] == {
        "maxRestarts": 7,
        "rules": [{"action": "FailJobSet", "onJobFailureReasons": ["PodFailurePolicy"]}],
    }
    assert job["backoffLimit"] == 0
    assert job["podFailurePolicy"]["rules"] == [
        {"action": "FailJob", "onExitCodes": {"containerName": "train", "operator": "In", "values": [2]}}
    ]
    assert job["template"]["spec"]["restartPolicy"] == "Never"
    assert job["template"]["spec"]["terminationGracePeriodSeconds"] == 300


def test_pods_mount_the_bucket_where_the_runs_folder_has_to_be(cloud):
    pod = manifest(cloud, MULTI | {"MOUNT": "/data"}, *TRAIN)["spec"]["replicatedJobs"][0]["template"]["spec"][
        "template"
    ]
    (container,) = pod["spec"]["containers"]
    assert pod["metadata"]["annotations"] == {"gke-gcsfuse/volumes": "true"}
    assert container["volumeMounts"] == [{"name": "bucket", "mountPath": "/data"}]
    assert container["env"] == [{"name": "MOUNT", "value": "/data"}]
    (volume,) = pod["spec"]["volumes"]
    assert volume["csi"]["driver"] == "gcsfuse.csi.storage.gke.io"
    assert volume["csi"]["volumeAttributes"]["bucketName"] == "rl"


def test_arguments_reach_the_container_as_given(cloud):
    def as_kubernetes_does(text: str) -> str:
        return re.sub(r"\$(\$|\(\w+\))", lambda found: "$" if found[1] == "$" else "expanded", text)

    arguments = [*AWKWARD, "$(MOUNT)", "$$(MOUNT)", "tab\there"]
    pod = manifest(cloud, MULTI, *arguments)["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]
    assert list(map(as_kubernetes_does, pod["containers"][0]["args"])) == arguments


def test_what_a_gke_dry_run_shows_is_what_is_created(cloud):
    lines = shown(cloud, "tpu/gke/launch.sh", MULTI | STORED, "--", *AWKWARD)
    assert lines[0] == "kubectl --context=gke_proj_us-west4-a_egpo create -f - <<'END'" and lines[-1] == "END"
    assert yaml.safe_load("\n".join(lines[1:-1])) == manifest(cloud, MULTI, *AWKWARD)


# The container's entry: the same file decides on a VM


@pytest.mark.parametrize(("act", "code"), [("finish", 0), ("preempted", 75), ("2", 2), ("134", 134)])
def test_the_exit_code_says_whether_to_go_on(cloud, act, code):
    cloud.plan(act)
    environment = cloud.environment | {"PYTHON": str(cloud.fake / "python"), "MOUNT": str(cloud.mount)}
    command = ["bash", cloud.tree / "tpu" / "run.sh", "scripts/train_rl.py"]
    assert subprocess.run(command, env=environment, capture_output=True).returncode == code


def test_a_pod_that_is_told_to_stop_passes_it_on_and_is_not_finished(cloud):
    cloud.plan("wait")
    environment = cloud.environment | {"PYTHON": str(cloud.fake / "python"), "MOUNT": str(cloud.mount)}
    run = subprocess.Popen(["bash", cloud.tree / "tpu" / "run.sh", "scripts/train_rl.py"], env=environment)
    received = cloud.fake / f"received-{cloud.folder.name}"
    wait_for(received.exists)
    time.sleep(0.3)
    run.terminate()
    assert run.wait(timeout=20) == 75


# What is written


def test_the_table_of_types_is_the_one_that_the_scripts_use():
    text = (ROOT / "tpu" / "options.sh").read_text()
    table = [tuple(line.split()[:4]) for line in re.search(r'TPU_TYPES="\n(.*?)"', text, re.S)[1].splitlines()]
    readme = re.findall(r"^\| `(\S+)` \| `(\S+)` \| (\d+) \| (\d+) \|", (ROOT / "tpu" / "README.md").read_text(), re.M)
    assert readme == table
    for name, plan, chips, hosts in table:
        generation, cores = plan.split(":")[0], int(name.rsplit("-", 1)[1])
        product = math.prod(map(int, plan.split(":")[1].split("x")))
        # v5p and tpu7x are named by their cores, two to a chip.
        assert int(chips) == product == cores // (2 if generation in ("v5p", "tpu7x") else 1)
        assert int(hosts) == (1 if product == 8 and generation in ("v5e", "v6e") else product // 4)


def test_shellcheck_finds_nothing():
    beside = Path(sys.executable).with_name("shellcheck")
    shellcheck = str(beside) if beside.exists() else shutil.which("shellcheck")
    if shellcheck is None:
        pytest.skip("shellcheck is not installed (it comes with the extra `test`)")
    files = [*ROOT.glob("tpu/**/*.sh"), *ROOT.glob("scripts/*.sh")]
    paths = [f"--source-path={path}" for path in ("SCRIPTDIR", ROOT)]
    found = subprocess.run(
        [shellcheck, "--shell=bash", "--external-sources", *paths, *files], capture_output=True, text=True
    )
    assert found.returncode == 0, found.stdout


def test_files_name_no_person_and_no_machine():
    for path in [*ROOT.glob("tpu/**/*"), Path(__file__)]:
        if path.is_file() and path.suffix != ".pyc":
            assert not re.search(r"/(home|Users|root|work)/", path.read_text().replace("(home|Users|root|work)", "")), (
                path
            )
