"""A Slurm cluster for the tests: a controller and one node with two GPUs that are not there, all on 127.0.0.1."""

import getpass
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

PATH = f"{os.environ['PATH']}:/usr/sbin:/sbin"  # where daemons are
NEEDED = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scontrol")
CONFIGURATION = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller}
SlurmdPort={node}
SlurmUser={user}
SlurmdUser={user}
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
SlurmdParameters=config_overrides
MpiDefault=none
ReturnToService=2
MinJobAge=3600
MessageTimeout=60
GresTypes=gpu
NodeName={host} NodeAddr=127.0.0.1 CPUs=8 RealMemory=32000 Gres=gpu:2
PartitionName=test Nodes={host} Default=YES State=UP
"""


def missing() -> list[str]:
    """The programs of Debian's slurm-wlm and munge that are not installed."""
    return [program for program in NEEDED if not _program(program)]


def _program(name: str) -> str | None:
    return shutil.which(name, path=PATH)


@contextmanager
def cluster(folder: Path) -> Iterator[dict[str, str]]:
    """Start the cluster, with all its files in ``folder``; gives what the environment of its commands needs: PATH and
    SLURM_CONF. At the end every process of it is ended."""
    folder.mkdir(mode=0o755)
    host = socket.gethostname().partition(".")[0]
    controller, node = _free_ports(2)
    text = CONFIGURATION.format(folder=folder, host=host, controller=controller, node=node, user=getpass.getuser())
    (folder / "slurm.conf").write_text(text)
    (folder / "gres.conf").write_text(f"Name=gpu File={folder}/gpu[0-1]\n")
    for name in ("cgroup.conf", "gpu0", "gpu1"):
        (folder / name).touch()
    (folder / "munge.key").write_bytes(os.urandom(128))
    (folder / "munge.key").chmod(0o600)
    for name in ("state", "spool", "bin"):
        (folder / name).mkdir(mode=0o755)
    env = {**os.environ, "SLURM_CONF": str(folder / "slurm.conf"), "PATH": f"{folder}/bin:{PATH}"}
    # Snakemake's job steps keep no SLURM_CONF for srun: without it, the cluster's file would be /etc/slurm/slurm.conf
    (folder / "bin" / "srun").write_text(f'#!/bin/sh\nSLURM_CONF={folder}/slurm.conf exec {_program("srun")} "$@"\n')
    (folder / "bin" / "srun").chmod(0o755)
    munge = [f"--{name}={folder}/munge.{name.removesuffix('-file')}" for name in ("socket", "key-file", "pid-file",
             "log-file", "seed-file")]  # fmt: skip
    with ExitStack() as stack:
        for command in (["munged", "--foreground", "--force", *munge], ["slurmctld", "-D"], ["slurmd", "-D"]):
            stack.enter_context(_daemon(command, env, folder))
        _wait_until_idle(env, folder)
        yield {name: env[name] for name in ("PATH", "SLURM_CONF")}


@contextmanager
def _daemon(command: list[str], env: dict[str, str], folder: Path) -> Iterator[None]:
    with (folder / f"{command[0]}.out").open("wb") as out:
        process = subprocess.Popen(command, env=env, stdout=out, stderr=subprocess.STDOUT)
    try:
        yield
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _free_ports(number: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(number)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def _wait_until_idle(env: dict[str, str], folder: Path) -> None:
    for _ in range(120):
        done = subprocess.run(["sinfo", "--noheader", "--format=%t"], env=env, capture_output=True, text=True)
        if done.stdout.strip() == "idle":
            return
        time.sleep(0.5)
    logs = "\n".join(f"{p.name}: {p.read_text()[-2000:]}" for p in [*folder.glob("*.out"), *folder.glob("*.log")])
    raise RuntimeError(f"the test cluster does not start: {done.stdout}{done.stderr}\n{logs}")
