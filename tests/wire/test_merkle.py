"""Merkle trees against the public vectors of Certificate Transparency and a naive tree.

Vectors: github.com/google/certificate-transparency, cpp/merkletree/merkle_tree_test.cc.
"""

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wire.errors import MalformedError
from wire.merkle import (
    EMPTY_ROOT,
    Frontier,
    Tree,
    check_consistency,
    check_inclusion,
    leaf_hash,
)

LEAVES = [
    leaf_hash(bytes.fromhex(entry))
    for entry in (
        "",
        "00",
        "10",
        "2021",
        "3031",
        "40414243",
        "5051525354555657",
        "606162636465666768696a6b6c6d6e6f",
    )
]
ROOTS = [
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]
INCLUSION = {
    (0, 1): [],
    (0, 8): [
        "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
        "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
        "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
    ],
    (5, 8): [
        "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
        "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    ],
    (2, 3): ["fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125"],
}
CONSISTENCY = {
    (1, 1): [],
    (1, 8): INCLUSION[0, 8],
    (6, 8): [
        "0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a",
        "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    ],
    (2, 5): [
        "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
        "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
    ],
}


def naive_root(entries: list[bytes]) -> bytes:
    """The definition of RFC 6962, section 2.1, read aloud."""
    if not entries:
        return hashlib.sha256(b"").digest()
    if len(entries) == 1:
        return hashlib.sha256(b"\0" + entries[0]).digest()
    half = 1
    while 2 * half < len(entries):
        half *= 2
    return hashlib.sha256(b"\1" + naive_root(entries[:half]) + naive_root(entries[half:])).digest()


@pytest.mark.parametrize("size", range(9))
def test_roots_are_those_of_certificate_transparency(size: int) -> None:
    assert Tree(LEAVES).root(size).hex() == ROOTS[size]


@pytest.mark.parametrize(("index", "size"), INCLUSION)
def test_inclusion_proofs_are_those_of_certificate_transparency(index: int, size: int) -> None:
    proof = Tree(LEAVES[:size]).inclusion(index)
    assert [node.hex() for node in proof] == INCLUSION[index, size]
    check_inclusion(LEAVES[index], index, size, proof, bytes.fromhex(ROOTS[size]))


@pytest.mark.parametrize(("earlier", "size"), CONSISTENCY)
def test_consistency_proofs_are_those_of_certificate_transparency(earlier: int, size: int) -> None:
    proof = Tree(LEAVES[:size]).consistency(earlier)
    assert [node.hex() for node in proof] == CONSISTENCY[earlier, size]
    old, new = bytes.fromhex(ROOTS[earlier]), bytes.fromhex(ROOTS[size])
    check_consistency(earlier, old, size, new, proof)


@given(st.lists(st.binary(max_size=5), max_size=70))
def test_appending_one_by_one_gives_the_root_of_the_naive_tree(entries: list[bytes]) -> None:
    frontier = Frontier()
    for number, entry in enumerate(entries):
        assert frontier.root == naive_root(entries[:number])
        frontier = frontier.add(leaf_hash(entry))
        assert len(frontier.peaks) == (number + 1).bit_count()
    tree = Tree([leaf_hash(entry) for entry in entries])
    assert frontier.root == tree.root() == naive_root(entries)


@given(st.data())
def test_every_proof_of_every_tree_verifies_and_no_other_leaf_root_or_place_does(
    data: st.DataObject,
) -> None:
    size = data.draw(st.integers(1, 40))
    leaves = [leaf_hash(bytes([number])) for number in range(size)]
    index = data.draw(st.integers(0, size - 1))
    earlier = data.draw(st.integers(0, size))
    root, old = Tree(leaves).root(), Tree(leaves).root(earlier)
    proof, consistency = Tree(leaves).inclusion(index), Tree(leaves).consistency(earlier)
    check_inclusion(leaves[index], index, size, proof, root)
    check_consistency(earlier, old, size, root, consistency)
    for wrong in (
        (leaf_hash(b"other"), index, size, proof, root),
        (leaves[index], index, size, proof, old if earlier != size else EMPTY_ROOT),
        (leaves[index], index, size, (*proof, bytes(32)), root),
        (leaves[index], (index + 1) % size if size > 1 else 1, size, proof, root),
        (leaves[index], index, size, (*proof[:-1], bytes(32)), root),
        (leaves[index], index, size, tuple(node[:31] for node in proof) or (b"",), root),
    ):
        with pytest.raises(MalformedError):
            check_inclusion(*wrong)
    other = Tree([*leaves[:-1], leaf_hash(b"other")]).root()
    for claim in (
        (earlier, old, size, other, consistency),
        (earlier, leaf_hash(b"other"), size, root, consistency),
        (earlier, old, size, root, (*consistency, bytes(32))),
        (size + 1, old, size, root, consistency),
    ):
        if claim == (0, EMPTY_ROOT, size, other, ()):
            continue  # the beginning of everything
        with pytest.raises(MalformedError):
            check_consistency(*claim)
    if consistency:
        with pytest.raises(MalformedError):
            check_consistency(earlier, old, size, root, consistency[:-1])


def test_a_fork_has_no_consistency_proof_from_either_branch() -> None:
    ours = [*LEAVES[:5], leaf_hash(b"ours")]
    theirs = [*LEAVES[:5], leaf_hash(b"theirs"), *LEAVES[5:]]
    proof = Tree(theirs).consistency(len(ours))
    with pytest.raises(MalformedError, match="does not show"):
        check_consistency(len(ours), Tree(ours).root(), len(theirs), Tree(theirs).root(), proof)


def test_a_frontier_that_does_not_fit_its_size_and_places_that_are_not_there_are_refused() -> None:
    with pytest.raises(MalformedError, match="subtrees"):
        Frontier(3, (bytes(32),))
    with pytest.raises(ValueError, match="no leaf 8"):
        Tree(LEAVES).inclusion(8)
    with pytest.raises(ValueError, match="no beginning of 9"):
        Tree(LEAVES).consistency(9)
    frontier = Frontier()
    for leaf in LEAVES:
        frontier = frontier.add(leaf)
    assert frontier == Frontier(8, (bytes.fromhex(ROOTS[8]),))
