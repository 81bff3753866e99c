"""Two hosts on one machine: network namespaces with a cable between them, whose bandwidth and delay can be set.

They share processors, memory and files, but nothing reaches from one to the other except through the cable. Their
addresses exist nowhere else. It takes Linux, `ip` and the rights of root.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from xnor_ref.bench.measuring.process import Unavailable
from xnor_ref.errors import InputError

CABLE = "xnor0"  # the end of the cable, in both
NETWORK = "10.77.0"
_AGENT = """#!/bin/sh
host=$1
shift
case $host in
{cases}
esac
exec ip netns exec "$name" unshare --uts sh -c "hostname $name; $*"
"""


def mpirun() -> str:
    """Where mpirun lies: beside the interpreter, as the wheel has it, or on the PATH. Raises InputError."""
    folders = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    found = shutil.which("mpirun", path=folders)
    if found is None:
        raise InputError("this needs mpi4py and mpirun: pip install 'xnor_ref[mpi]'")
    return found


def as_root() -> dict[str, str]:
    """What Open MPI wants to find in the environment before it runs as root."""
    names = ("OMPI_ALLOW_RUN_AS_ROOT", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM") if os.geteuid() == 0 else ()
    return dict.fromkeys(names, "1")


@contextmanager
def two_hosts(rate: str | None = None, delay: str | None = None) -> Iterator[tuple[list[str], str]]:
    """Make them, and take them down again.

    Parameters
    ----------
    rate, delay : of the cable, as `tc` takes them, such as 1gbit and 100us; None leaves it as fast as it is

    Yields
    ------
    What a command line of mpirun begins with, up to the number of ranks; and what the cable is like, in words

    Raises
    ------
    Unavailable : the system cannot, or does not allow it
    """
    missing = [name for name in ("ip", "tc", "unshare") if shutil.which(name) is None]
    if missing or os.geteuid():
        raise Unavailable(f"two hosts need {', '.join(missing) if missing else 'the rights of root'}")
    names = [f"xnor-{os.getpid()}-{end}" for end in "ab"]
    addresses = [f"{NETWORK}.{number}" for number in (1, 2)]
    try:
        with tempfile.TemporaryDirectory(prefix="xnor_ref-hosts-") as folder:
            for name in names:
                _ip("netns", "add", name)
            _ip("link", "add", CABLE, "netns", names[0], "type", "veth", "peer", "name", CABLE, "netns", names[1])
            for name, address in zip(names, addresses, strict=True):
                _ip("-n", name, "addr", "add", f"{address}/24", "dev", CABLE)
                for device in (CABLE, "lo"):
                    _ip("-n", name, "link", "set", device, "up")
            words = _shape(names, rate, delay)
            agent = Path(folder) / "agent"
            cases = "\n".join(f"{address}) name={name} ;;" for name, address in zip(names, addresses, strict=True))
            agent.write_text(_AGENT.format(cases=cases))
            agent.chmod(0o755)
            inside = f'hostname {names[0]}; exec "$@"'
            launcher = ["--prtemca", "plm_ssh_agent", str(agent), "--prtemca", "prte_if_include", CABLE]
            carrier = ["--mca", "btl", "tcp,self", "--mca", "btl_tcp_if_include", CABLE]
            start = ["ip", "netns", "exec", names[0], "unshare", "--uts", "sh", "-c", inside, "sh", mpirun()]
            yield [*start, *launcher, *carrier, "--host", ",".join(f"{one}:1" for one in addresses)], words
    finally:
        for name in names:
            with suppress(Unavailable):
                _ip("netns", "del", name)


def _shape(names: list[str], rate: str | None, delay: str | None) -> str:
    """Set the cable's bandwidth and delay; what was set."""
    words = []
    for name in names:
        tc = ("tc", "-n", name, "qdisc", "add", "dev", CABLE)
        if rate is not None:
            _run(*tc, "root", "handle", "1:", "tbf", "rate", rate, "burst", "256kb", "latency", "100ms")
        if delay is not None:
            _run(*tc, *(("parent", "1:1") if rate else ("root",)), "netem", "delay", delay)
    words += [rate] if rate else []
    words += [f"delay {delay}"] if delay else []
    return ", ".join(words) or "unlimited"


def _ip(*arguments: str) -> None:
    _run("ip", *arguments)


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        why = (done.stderr.strip() or done.stdout.strip()).splitlines()
        raise Unavailable(f"{' '.join(command)}: {why[-1] if why else f'exit code {done.returncode}'}")
