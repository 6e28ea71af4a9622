"""Rows travel between owners and ghosts by tags alone, whatever the division; sums back are the transpose."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hydrapot.lammps_plugin.errors import SharedError
from hydrapot.lammps_plugin.guards import check_ghosts
from hydrapot.lammps_plugin.halo import TagHalo
from tests.thread_comm import run_ranks

WIDTH = 3


def rows_of(tags, dtype=torch.float64) -> torch.Tensor:
    """Numbers that say whose they are."""
    return torch.as_tensor(np.asarray(tags)[:, None] * 10.0 + np.arange(WIDTH), dtype=dtype).reshape(-1, WIDTH)


@settings(max_examples=60, deadline=None)
@given(data=st.data(), size=st.integers(1, 4), dtype=st.sampled_from([torch.float32, torch.float64]))
def test_ghosts_receive_their_owners_rows_and_sums_come_back(data, size, dtype):
    tags = data.draw(st.lists(st.integers(1, 40), unique=True, max_size=12))
    owners = data.draw(st.lists(st.integers(0, size - 1), min_size=len(tags), max_size=len(tags)))
    own = [[t for t, owner in zip(tags, owners, strict=True) if owner == rank] for rank in range(size)]
    copies = st.lists(st.sampled_from(tags), max_size=20) if tags else st.just([])
    ghosts = [data.draw(copies) for _ in range(size)]  # own atoms too (images), and several times

    def work(comm):
        mine = np.array(own[comm.rank] + ghosts[comm.rank], dtype=np.int32)
        n_local = len(own[comm.rank])
        halo = TagHalo(comm, mine, n_local)
        assert halo.serves(mine, n_local)
        arrived = halo.to_ghosts(rows_of(mine[:n_local], dtype))
        assert arrived.dtype == dtype
        assert torch.equal(arrived, rows_of(mine, dtype))
        return halo.to_owners(torch.ones(len(mine), WIDTH, dtype=dtype)), n_local

    counts = {tag: sum(row.count(tag) for row in ghosts) for tag in tags}
    for (sums, n_local), mine in zip(run_ranks(size, work), own, strict=True):
        assert sums.shape == (n_local, WIDTH)
        assert sums[:, 0].tolist() == [1 + counts[tag] for tag in mine]


def test_a_halo_serves_until_one_process_has_other_atoms():
    def work(comm):
        tags = np.array([1, 2]) if comm.rank == 0 else np.array([2, 1])
        halo = TagHalo(comm, tags, 1)
        same = halo.serves(tags, 1)
        later = halo.serves(np.array([1, 2, 2]) if comm.rank == 0 else tags, 1)
        return same, later

    assert run_ranks(2, work) == [(True, False), (True, False)]


@pytest.mark.parametrize(
    ("tags", "message"),
    [(([1, 2], [2, 1]), "1 atoms have two owners"), (([1, 7], [2, 1]), "1 ghost atoms belong to no process")],
)
def test_all_processes_hear_of_what_one_found(tags, message):
    n_local = 2 if "two owners" in message else 1

    def work(comm):
        with pytest.raises(SharedError, match=message):
            TagHalo(comm, np.array(tags[comm.rank]), n_local if comm.rank == 0 else 1)
        return "heard"

    assert run_ranks(2, work) == ["heard", "heard"]


def test_a_ghost_that_is_no_image_of_its_owner_is_noticed():
    cell = np.array([[4.0, 0, 0], [1.0, 5.0, 0], [-1.0, 2.0, 6.0]])
    positions = np.array([[0.1, 0.2, 0.3], [2.0, 2.0, 2.0]])
    ghosts = positions[[0, 1, 0]] + np.array([[1, 0, 0], [-1, 2, 0], [0, 0, 1]]) @ cell
    everything, types = np.concatenate([positions, ghosts]), np.array([1, 2, 1, 2, 1])

    def wrong(positions, types) -> int:
        return run_ranks(
            1, lambda comm: check_ghosts(TagHalo(comm, np.array([5, 9, 5, 9, 5]), 2), positions, types, cell)
        )[0]

    assert wrong(everything, types) == 0
    moved = everything.copy()
    moved[3, 0] += 1e-3
    assert wrong(moved, types) == 1
    assert wrong(everything, np.array([1, 2, 1, 1, 1])) == 1
