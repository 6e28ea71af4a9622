"""Which network interface the processes of several nodes exchange through."""

import os
import socket
import threading
from datetime import timedelta

import pytest
from torch.distributed import HashStore

from hydrapot.training import interfaces
from hydrapot.training.interfaces import gloo_interface, interface_of, own_address, route_to


def addresses(monkeypatch: pytest.MonkeyPatch, routes: dict[str, dict[str, str]]) -> dict[str, str | None]:
    """What each process of a run finds, from its own address toward others."""
    store, found = HashStore(), {}
    store.set_timeout(timedelta(seconds=30))

    def route(address: str) -> str | None:
        return routes[threading.current_thread().name].get(address)

    monkeypatch.setattr(interfaces, "route_to", route)

    def ask() -> None:
        found[threading.current_thread().name] = own_address(store, address="node1", world=len(routes))

    threads = [threading.Thread(target=ask, name=name) for name in routes]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    return found


def test_a_node_that_knows_itself_as_loopback_takes_the_interface_to_the_others(monkeypatch: pytest.MonkeyPatch):
    """Debian writes ``127.0.1.1 node1`` into /etc/hosts of node1, and gloo would listen there."""
    first = {"10.0.0.2": "10.0.0.1"}
    found = addresses(monkeypatch, {"0": first, "1": first, "2": {"node1": "10.0.0.2"}})
    assert found == {"0": "10.0.0.1", "1": "10.0.0.1", "2": "10.0.0.2"}


def test_every_process_takes_the_interface_to_the_meeting_point(monkeypatch: pytest.MonkeyPatch):
    found = addresses(monkeypatch, {"0": {"node1": "10.0.0.1"}, "1": {"node1": "10.0.0.2"}})
    assert found == {"0": "10.0.0.1", "1": "10.0.0.2"}


def test_one_node_is_left_to_gloo(monkeypatch: pytest.MonkeyPatch):
    assert addresses(monkeypatch, {"0": {}, "1": {}}) == {"0": None, "1": None}


def test_the_loopback_and_nowhere_are_no_routes():
    assert route_to("127.0.0.1") is None
    assert route_to("no.such.host.invalid") is None


@pytest.mark.skipif("lo" not in dict(socket.if_nameindex()).values(), reason="asks Linux")
def test_an_address_belongs_to_an_interface():
    assert interface_of("127.0.0.1") == "lo"
    assert interface_of("198.51.100.77") is None
    assert interface_of(None) is None


def test_gloo_is_told_unless_the_user_has(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(interfaces, "route_to", lambda _: "10.0.0.1")
    monkeypatch.setattr(interfaces, "interface_of", {"10.0.0.1": "hsn0"}.get)
    monkeypatch.delenv("GLOO_SOCKET_IFNAME", raising=False)
    with gloo_interface(HashStore(), address="node1", world=1):
        assert os.environ["GLOO_SOCKET_IFNAME"] == "hsn0"
    assert "GLOO_SOCKET_IFNAME" not in os.environ
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "eth7")
    with gloo_interface(HashStore(), address="node1", world=1):
        assert os.environ["GLOO_SOCKET_IFNAME"] == "eth7"
