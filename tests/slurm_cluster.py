"""A Slurm cluster on this machine and on loopback alone: two nodes with one CPU and one fake GPU each, and one of two CPUs.

Partitions: `all` (the default, the two nodes), `urgent` (the same, whose jobs preempt those of `all`), `wide` (the third).

Needs root and Debian's slurmctld, slurmd, slurm-client and munge; no systemd.
"""

import contextlib
import os
import secrets
import shutil
import signal
import socket
import stat
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch")
_CONF = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.sock
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SwitchType=switch/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
ReturnToService=2
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool/%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
CommunicationParameters=NoAddrCache,NoInAddrAny,NoCtldInAddrAny
SlurmdParameters=config_overrides
SchedulerParameters=batch_sched_delay=0,sched_interval=2
KillWait=10
GresTypes=gpu
NodeName=node1 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=1 RealMemory=2000 Gres=gpu:1
NodeName=node2 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs=1 RealMemory=2000 Gres=gpu:1
NodeName=node3 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[3]} CPUs=2 RealMemory=2000
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
PartitionName=all Nodes=node[1-2] Default=YES PriorityTier=1 GraceTime=30 MaxTime=INFINITE State=UP
PartitionName=urgent Nodes=node[1-2] PriorityTier=2 PreemptMode=OFF MaxTime=INFINITE State=UP
PartitionName=wide Nodes=node3 MaxTime=INFINITE State=UP
"""


def missing() -> str | None:
    """Why there can be no cluster here, or None."""
    if os.geteuid() != 0:
        return "Slurm's daemons are started as root"
    lacks = [name for name in PROGRAMS if shutil.which(name) is None]
    if lacks:
        return f"not installed: {', '.join(lacks)} (Debian: slurmctld slurmd slurm-client munge)"
    return None


def free_ports(count: int) -> list[int]:
    """Ports that nothing listens on."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


@contextlib.contextmanager
def cluster(folder: Path) -> Iterator[Path]:
    """Start the cluster; gives the path of its slurm.conf, and ends it with the block."""
    for name in ("state", "spool"):
        (folder / name).mkdir(parents=True)
    key = folder / "munge.key"
    key.write_bytes(secrets.token_bytes(1024))
    key.chmod(0o600)
    os.mknod(folder / "gpu0", 0o666 | stat.S_IFCHR, os.makedev(1, 3))  # the null device stands for a GPU
    (folder / "gres.conf").write_text("".join(f"NodeName=node{n} Name=gpu File={folder}/gpu0\n" for n in (1, 2)))
    conf = folder / "slurm.conf"
    conf.write_text(_CONF.format(host=socket.gethostname().split(".")[0], folder=folder, ports=free_ports(4)))
    environment = os.environ | {"SLURM_CONF": str(conf)}

    def start(*command: str) -> None:
        subprocess.run(command, check=True, env=environment, capture_output=True, timeout=30)

    try:
        start(
            "munged", "--force", f"--key-file={key}", f"--socket={folder}/munge.sock", f"--pid-file={folder}/munged.pid",
            f"--log-file={folder}/munged.log", f"--seed-file={folder}/munge.seed",
        )  # fmt: skip
        start("slurmctld", "-f", str(conf))
        for name in ("node1", "node2", "node3"):
            start("slurmd", "-f", str(conf), "-N", name)
        deadline = time.monotonic() + 60
        while ask(conf, "sinfo", "--noheader", "--Node", "--partition=all,wide", "--format=%t").split() != ["idle"] * 3:
            if time.monotonic() > deadline:
                raise TimeoutError((folder / "slurmctld.log").read_text()[-2000:])
            time.sleep(0.2)
        yield conf
    finally:
        with contextlib.suppress(subprocess.SubprocessError):
            ask(conf, "scancel", "--full", "--signal=KILL", "--user=root")
        for pid in folder.glob("*.pid"):
            with contextlib.suppress(OSError, ValueError):
                os.kill(int(pid.read_text()), signal.SIGKILL)


def ask(conf: Path, *command: str) -> str:
    """What a Slurm command says."""
    environment = os.environ | {"SLURM_CONF": str(conf)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    return done.stdout + done.stderr
