"""The network interface through which the processes of a run exchange gradients on CPUs.

Gloo listens at the address of the host's name. That is the loopback where ``/etc/hosts`` says so (Debian: ``127.0.1.1``), and a
network that the others do not reach where a host has several. What certainly works is the interface that leads to the place
where the processes meet.
"""

import os
import socket
import struct
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from torch.distributed import Store  # type: ignore[attr-defined]

#: Where gloo reads the interface.
_VARIABLE = "GLOO_SOCKET_IFNAME"
_OUTSIDE, _LOOKED, _ALL_LOOKED = "hydrapot/outside", "hydrapot/looked", "hydrapot/all looked"


@contextmanager
def gloo_interface(store: Store, *, address: str, world: int) -> Iterator[None]:
    """Context in which gloo takes the interface that leads to the other processes, unless the user has named one.

    All processes enter it. Those on the node of the meeting point may see it on their loopback; they take the interface that
    leads to a process that does not. Where all do, there is one node, and gloo is left to itself.

    Parameters
    ----------
    store
        That all processes reach.
    address
        Where that is.
    world
        Number of processes.
    """
    if _VARIABLE in os.environ:
        yield
        return
    name = interface_of(own_address(store, address=address, world=world))
    if name is None:
        yield
        return
    os.environ[_VARIABLE] = name
    try:
        yield
    finally:
        del os.environ[_VARIABLE]


def own_address(store: Store, *, address: str, world: int) -> str | None:
    """Address of this process for those on other nodes; None if there are none, or it cannot be found out."""
    own = route_to(address)
    if own is not None:
        store.compare_set(_OUTSIDE, "", own)
    if store.add(_LOOKED, 1) == world:
        store.set(_ALL_LOOKED, "yes")
    if own is None:
        store.wait([_ALL_LOOKED])
        own = route_to(store.get(_OUTSIDE).decode()) if store.check([_OUTSIDE]) else None
    return own


def route_to(address: str) -> str | None:
    """Own IPv4 address from which packets to `address` would leave; None for the loopback, or if there is no way."""
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect((address, 9))  # sends nothing
            own: str = probe.getsockname()[0]
    except OSError:
        return None
    return None if own.startswith("127.") else own


def interface_of(address: str | None) -> str | None:
    """Name of the interface that has an IPv4 address; None where that cannot be found out."""
    if address is None or sys.platform != "linux":
        return None
    import fcntl

    request = 0x8915  # SIOCGIFADDR
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        for _, name in socket.if_nameindex():
            try:
                answer = fcntl.ioctl(probe, request, struct.pack("256s", name.encode()))
            except OSError:  # no IPv4 address
                continue
            if socket.inet_ntoa(answer[20:24]) == address:
                return name
    return None
