"""A SLURM cluster of several nodes on this machine, in a folder of its own.

    python -m tests.slurm.cluster up|down FOLDER [--accounting]

Nothing of the system's own SLURM is read or changed: configuration, keys, sockets, state and logs are in the folder,
and ports are free ones of the loopback device. Memory is enforced by SLURM itself, which looks once a second and kills
a job that holds more than it asked for (`OverMemoryKill`): that works without control groups, in containers too.
"""

from __future__ import annotations

import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

PROGRAMS = {
    "munge": ("munged", "munge", "unmunge"),
    "slurm-client": ("sbatch", "srun", "squeue", "sacct", "scontrol", "sinfo", "scancel"),
    "slurmctld": ("slurmctld",),
    "slurmd": ("slurmd",),
}
ACCOUNTING_PROGRAMS = {
    "slurmdbd": ("slurmdbd", "sacctmgr"),
    "mariadb-server-core": ("mariadbd", "mariadb-install-db"),
    "mariadb-client-core": ("mariadb",),
}
SEARCHED = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])
CONTROLLER = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=30
CredType=cred/munge
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=task=1
JobAcctGatherParams=OverMemoryKill
SlurmdParameters=config_overrides
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.own
SlurmdPidFile={folder}/slurmd-%n.own
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SchedulerParameters=bf_interval=2,sched_interval=2,batch_sched_delay=0
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
PriorityType=priority/basic
GresTypes=gpu
ReturnToService=2
SlurmctldTimeout=60
SlurmdTimeout=60
KillWait=2
MinJobAge=3600
DefMemPerCPU=500
"""
PARTITIONS = """
PartitionName=cpu Nodes={nodes} Default=YES MaxTime=08:00:00 DefaultTime=00:10:00 PriorityTier=10 PreemptMode=OFF
PartitionName=gpu Nodes={nodes} MaxTime=08:00:00 DefaultTime=00:10:00 PriorityTier=10 PreemptMode=OFF
PartitionName=low Nodes={nodes} MaxTime=08:00:00 DefaultTime=00:10:00 PriorityTier=1 PreemptMode=REQUEUE
PartitionName=high Nodes={nodes} MaxTime=08:00:00 DefaultTime=00:10:00 PriorityTier=20 PreemptMode=OFF
"""
ACCOUNTING = """
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePort={port}
AccountingStoragePass={folder}/munge.socket
AccountingStorageTRES=gres/gpu
"""
DATABASE = """
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
DbdHost={host}
DbdAddr=127.0.0.1
DbdPort={port}
SlurmUser={user}
PidFile={folder}/slurmdbd.own
LogFile={folder}/slurmdbd.log
StorageType=accounting_storage/mysql
StorageHost=localhost
StorageUser={user}
StorageLoc=slurm_acct_db
CommunicationParameters=NoInAddrAny
"""


def program(name: str) -> str | None:
    """Where a program is; daemons are often outside a user's PATH."""
    return shutil.which(name, path=SEARCHED)


def missing_packages(accounting: bool = False) -> list[str]:
    """Debian packages whose programs are not there."""
    wanted = {**PROGRAMS, **(ACCOUNTING_PROGRAMS if accounting else {})}
    return [package for package, names in wanted.items() if not all(map(program, names))]


def wait_for(condition: Callable[[], bool], what: str, seconds: float = 60) -> None:
    """Wait until a condition holds, or say what did not happen."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"expected {what} within {seconds:g} s")
        time.sleep(0.1)


def free_ports(number: int) -> list[int]:
    """Ports of the loopback device that nothing listens on."""
    sockets = [socket.socket() for _ in range(number)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


@dataclass(frozen=True)
class Cluster:
    """Daemons that run in a folder; their process numbers are in its `*.pid` files."""

    folder: Path
    accounting: bool = False
    nodes: tuple[str, ...] = ("node1", "node2")
    cpus: int = 1
    memory: int = 4000  # MB that each node offers
    environment: Mapping[str, str] = field(init=False)

    def __post_init__(self) -> None:
        plain = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM_", "SBATCH_"))}
        own = {"SLURM_CONF": str(self.folder / "slurm.conf"), "OMP_NUM_THREADS": "1"}
        own["PATH"] = f"{self.folder / 'bin'}{os.pathsep}{SEARCHED}"
        own["MYSQL_UNIX_PORT"] = str(self.folder / "mysql.socket")
        object.__setattr__(self, "environment", {**plain, **own})

    def run(self, *command: str, check: bool = True) -> str:
        """What a client program says."""
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True, check=False, timeout=120)
        if check and done.returncode:
            raise RuntimeError(f"{' '.join(command)}: {done.stderr}")
        return done.stdout.strip()

    def answers(self, *command: str) -> bool:
        done = subprocess.run(command, env=self.environment, capture_output=True, check=False, timeout=120)
        return done.returncode == 0

    def start(self, name: str, *command: str) -> None:
        """Start a daemon in the foreground, in a session of its own."""
        with (self.folder / f"{name}.out").open("ab") as out:
            process = subprocess.Popen(
                [program(command[0]) or command[0], *command[1:]],
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,
            )
        (self.folder / f"{name}.pid").write_text(str(process.pid))

    def start_node(self, node: str) -> None:
        self.start(node, "slurmd", "-D", "-N", node, "-f", str(self.folder / "slurm.conf"))

    def start_controller(self) -> None:
        self.start("controller", "slurmctld", "-D", "-f", str(self.folder / "slurm.conf"))

    def stop(self, name: str, how: signal.Signals = signal.SIGTERM) -> None:
        """End a daemon that was started here, and wait until it is gone."""
        file = self.folder / f"{name}.pid"
        if not file.exists():
            return
        pid = int(file.read_text())
        started = Path(f"/proc/{pid}/environ")

        def gone() -> bool:
            with suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)
            with suppress(OSError):
                return str(self.folder).encode() not in started.read_bytes()
            return True

        if not gone():
            os.kill(pid, how)
            try:
                wait_for(gone, f"{name} to end", 20)
            except TimeoutError:
                os.kill(pid, signal.SIGKILL)
        file.unlink()

    def kill_node(self, node: str) -> None:
        """End the daemon of a node and everything that its jobs run there, as when its power fails."""
        jobs = self.run("squeue", "-h", "-w", node, "-o", "%A").split()
        self.stop(node, signal.SIGKILL)
        for file, marks in (("cmdline", "slurmstepd: [{}."), ("environ", "SLURM_JOB_ID={}\0")):
            for process in Path("/proc").glob("[0-9]*"):
                with suppress(OSError):
                    ours = str(self.folder).encode() in (process / "environ").read_bytes()
                    text = (process / file).read_bytes() + b"\0"
                    if ours and any(marks.format(job).encode() in text for job in jobs):
                        os.kill(int(process.name), signal.SIGKILL)

    def configure(self) -> None:
        """Write the configuration; a stand-in for a GPU is a device file that anything may open."""
        ports = free_ports(len(self.nodes) + 2)
        who = {"host": socket.gethostname().split(".")[0], "user": pwd.getpwuid(os.getuid()).pw_name}
        text = CONTROLLER.format(folder=self.folder, port=ports[-1], **who)
        if self.accounting:
            text += ACCOUNTING.format(folder=self.folder, port=ports[-2])
            database = self.folder / "slurmdbd.conf"
            database.write_text(DATABASE.format(folder=self.folder, port=ports[-2], **who))
            database.chmod(0o600)
        for node, port in zip(self.nodes, ports, strict=False):
            (self.folder / f"spool-{node}").mkdir()
            text += f"NodeName={node} NodeHostname={who['host']} NodeAddr=127.0.0.1 Port={port} CPUs={self.cpus} "
            text += f"RealMemory={self.memory} Gres=gpu:1 State=UNKNOWN\n"
        (self.folder / "state").mkdir()
        (self.folder / "slurm.conf").write_text(text + PARTITIONS.format(nodes=",".join(self.nodes)))
        gpus = [f"NodeName={node} Name=gpu File=/dev/null\n" for node in self.nodes]
        (self.folder / "gres.conf").write_text("".join(gpus))
        step = (
            self.folder / "bin" / "srun"
        )  # jobs start their step without the variables that name another configuration
        step.parent.mkdir()
        step.write_text(f'#!/bin/sh\nSLURM_CONF={self.folder}/slurm.conf exec {program("srun")} "$@"\n')
        step.chmod(0o755)
        (self.folder / "munge.key").write_bytes(secrets.token_bytes(1024))
        (self.folder / "munge.key").chmod(0o400)

    def start_munge(self) -> None:
        places = {"key-file": "munge.key", "socket": "munge.socket", "pid-file": "munge.own", "log-file": "munge.log"}
        options = [f"--{option}={self.folder / name}" for option, name in places.items()]
        self.start("munge", "munged", "--foreground", "--force", f"--seed-file={self.folder / 'munge.seed'}", *options)
        wait_for(lambda: self.answers("munge", "-n", "-S", str(self.folder / "munge.socket")), "munged to answer")

    def start_accounting(self) -> None:
        """A database on a Unix socket and SLURM's accounting in front of it."""
        data, at = self.folder / "mysql", self.folder / "mysql.socket"
        user = pwd.getpwuid(os.getuid()).pw_name
        plain = ["--no-defaults", f"--user={user}", f"--datadir={data}"]
        self.run("mariadb-install-db", *plain, "--skip-test-db", "--auth-root-authentication-method=socket")
        small = ["--skip-networking", "--innodb-buffer-pool-size=64M", "--innodb-use-native-aio=0"]
        self.start("mysql", "mariadbd", *plain, f"--socket={at}", *small, f"--pid-file={self.folder}/mysql.own")
        client = ("mariadb", "--no-defaults", f"--socket={at}", "-e")
        wait_for(lambda: self.answers(*client, "create database if not exists slurm_acct_db"), "mariadbd to answer")
        self.start("database", "slurmdbd", "-D", "-vv")
        wait_for(lambda: self.answers("sacctmgr", "-n", "-i", "list", "cluster"), "slurmdbd to answer")
        self.answers("sacctmgr", "-i", "-Q", "add", "cluster", "test")
        self.answers("sacctmgr", "-i", "-Q", "add", "account", "tests", "cluster=test")
        self.answers("sacctmgr", "-i", "-Q", "add", "user", user, "account=tests")

    def states(self) -> dict[str, str]:
        """State of every node."""
        lines = self.run("sinfo", "-h", "-N", "-p", "cpu", "-o", "%N %T", check=False).splitlines()
        return dict(line.split() for line in lines if line)

    def ready(self) -> bool:
        """Whether every node can start jobs."""
        states = self.states()
        return set(states) == set(self.nodes) and set(states.values()) <= {"idle", "mixed", "allocated"}

    def up(self) -> Cluster:
        """Start everything and wait until a step has run on all nodes."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self.configure()
        self.start_munge()
        if self.accounting:
            self.start_accounting()
        self.start_controller()
        for node in self.nodes:
            self.start_node(node)
        everywhere = ("srun", "-Q", "-t", "1", "-N", str(len(self.nodes)), "--ntasks-per-node=1", "true")
        wait_for(lambda: self.ready() and self.answers(*everywhere), "all nodes to run a step", 120)
        return self

    def cancel(self) -> None:
        """Cancel every job, and wait for their ends."""
        if jobs := self.run("squeue", "-h", "-o", "%A", check=False).split():
            self.answers("scancel", "--full", *jobs)
            with suppress(TimeoutError):
                wait_for(lambda: not self.run("squeue", "-h", check=False), "no jobs", 20)

    def down(self) -> None:
        """Cancel what runs, then end every daemon."""
        if (self.folder / "controller.pid").exists() and self.answers("scontrol", "ping"):
            self.cancel()
        for name in (*self.nodes, "controller", "database", "mysql", "munge"):
            self.stop(name)

    def logs(self) -> str:
        """The end of what the daemons say."""
        return "\n".join(f"{path.name}:\n{path.read_text()[-2000:]}" for path in sorted(self.folder.glob("slurm*.log")))


def main(order: str, folder: str = ".", *options: str) -> None:
    if order == "missing":
        sys.stdout.write(" ".join(missing_packages("--accounting" in options)))
        return
    cluster = Cluster(Path(folder).resolve(), accounting="--accounting" in options)
    if order == "down":
        cluster.down()
        return
    if missing := missing_packages(cluster.accounting):
        raise SystemExit(f"expected SLURM, got none — apt-get install {' '.join(missing)}")
    cluster.up()
    sys.stdout.write(f"export SLURM_CONF={cluster.folder}/slurm.conf PATH={cluster.environment['PATH']}\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
