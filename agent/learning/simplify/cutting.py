"""Operators that cut values into parts: all become slices.

Source: ONNX Operators.md, operator set 18.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from agent.learning.ir import GraphError, Node
from agent.learning.shapes import BATCH, int_attribute, place_axis
from agent.learning.simplify.draft import Draft, Live, Parts, Value
from agent.learning.simplify.known import SIZES, Known
from agent.learning.simplify.rule import Rule, ints

_MOST_PARTS = 1024  # as many as the reader accepts outputs of a node


def _cut(draft: Draft, node: Node, data: Live, axis: int, place: tuple[int, int]) -> Live:
    """Write the part of `data` from place[0] up to but without place[1]."""
    if place == (0, data.shape[axis]):
        return data
    return draft.emit(
        node, "Slice", data, draft.ints(place[0]), draft.ints(place[1]), draft.ints(axis)
    )


def _slice(draft: Draft, node: Node) -> Value:
    data = draft.data(node, 0)
    rank = len(data.shape)
    bounds = [draft.value(node, index) for index in (1, 2)]
    axes = ints(node, draft.fixed(node, 3), "the axes")
    steps = ints(node, draft.fixed(node, 4), "the steps")
    parts: list[tuple[list[int], list[int], list[int], list[int]]] = []
    for which, size in enumerate(SIZES):
        pair = [
            (value.first, value.second)[which] if isinstance(value, Known) else None
            for value in bounds
        ]
        starts, ends = (ints(node, value, "the bounds") for value in pair)
        if starts is None or ends is None:
            raise GraphError(node.describe(), "the bounds must be constant integers")
        named = range(len(starts)) if axes is None else axes
        placed = [place_axis(node, axis, rank) for axis in named]
        by = (1,) * len(starts) if steps is None else steps
        if not len(starts) == len(ends) == len(set(placed)) == len(placed) == len(by):
            raise GraphError(node.describe(), "starts, ends, axes and steps do not match")
        sizes = [size if n == BATCH else int(n) for n in data.shape]
        parts.append(_normal_slice(node, sizes, (starts, ends, placed, by)))
    if parts[0] != parts[1]:
        raise GraphError(node.describe(), "cuts the batch, or by a size that depends on it")
    if not parts[0][0]:
        return data
    *places, given = parts[0]
    last = [given] if given != [1] * len(given) else []
    return draft.emit(node, "Slice", data, *(draft.ints(*values) for values in (*places, *last)))


def _normal_slice(
    node: Node, sizes: Sequence[int], given: tuple[Sequence[int], ...]
) -> tuple[list[int], list[int], list[int], list[int]]:
    """Return starts, ends, axes and steps within the sizes, without axes taken whole."""
    starts, ends, axes, steps = [], [], [], []
    for start, end, axis, step in zip(*given, strict=True):
        if step < 1:
            raise GraphError(node.describe(), f"a step of {step} is not supported")
        first, last, by = slice(start, end, step).indices(sizes[axis])
        if (first, last, by) != (0, sizes[axis], 1):
            starts.append(first)
            ends.append(last)
            axes.append(axis)
            steps.append(by)
    return starts, ends, axes, steps


def _split(draft: Draft, node: Node) -> list[Value]:
    count = len(node.outputs)
    axis, size = _split_axis(draft, node)
    parts = ints(node, draft.fixed(node, 1), "the sizes")
    if parts is None:
        if int_attribute(node, "num_outputs", count) != count:
            raise GraphError(node.describe(), f"has {count} outputs, and announces others")
        parts = _chunks(size, math.ceil(size / count))
    if len(parts) != count:
        raise GraphError(node.describe(), f"cannot split {size} into {count} parts")
    return list(_parts(draft, node, axis, parts))


def _split_to_sequence(draft: Draft, node: Node) -> Value:
    axis, size = _split_axis(draft, node)
    given = draft.fixed(node, 1)
    parts = ints(node, given, "the sizes")
    if given is None or parts is None:
        cut = _parts(draft, node, axis, _chunks(size, 1))
        if not int_attribute(node, "keepdims", 1):
            cut = [draft.emit(node, "Squeeze", part, draft.ints(axis)) for part in cut]
        return Parts(node, tuple(cut))
    if given.ndim == 0:
        parts = _chunks(size, parts[0])
    return Parts(node, tuple(_parts(draft, node, axis, parts)))


def _sequence_at(draft: Draft, node: Node) -> Value:
    sequence = draft.value(node, 0)
    place = ints(node, draft.fixed(node, 1), "the place")
    if not isinstance(sequence, Parts) or place is None or len(place) != 1:
        raise GraphError(node.describe(), "needs a sequence and one constant place in it")
    return sequence.items[place_axis(node, place[0], len(sequence.items))]


def _split_axis(draft: Draft, node: Node) -> tuple[int, int]:
    """Return the axis that is split, and its size."""
    shape = draft.data(node, 0).shape
    axis = place_axis(node, int_attribute(node, "axis", 0), len(shape))
    size = shape[axis]
    if not isinstance(size, int):
        raise GraphError(node.describe(), "splits the batch")
    return axis, size


def _chunks(size: int, width: int) -> tuple[int, ...]:
    """Return parts of one width, the last smaller if it must be."""
    if width < 1 or size > width * _MOST_PARTS:
        return ()
    return tuple(min(width, size - first) for first in range(0, size, width))


def _parts(draft: Draft, node: Node, axis: int, parts: Sequence[int]) -> list[Live]:
    data = draft.data(node, 0)
    if not parts or min(parts) < 1 or sum(parts) != data.shape[axis]:
        raise GraphError(node.describe(), f"its {len(parts)} parts do not fill {data.shape[axis]}")
    ends = np.cumsum(parts).tolist()
    return [
        _cut(draft, node, data, axis, (end - part, end))
        for part, end in zip(parts, ends, strict=True)
    ]


def _gather(draft: Draft, node: Node) -> Value:
    """Rewrite constant indices as slices: one for a run of neighbours, else one for each."""
    data, indices = draft.data(node, 0), draft.fixed(node, 1)
    given = ints(node, indices, "the indices")
    axis = place_axis(node, int_attribute(node, "axis", 0), len(data.shape))
    size = data.shape[axis]
    if not isinstance(size, int) or not given or indices is None:
        raise GraphError(node.describe(), "picks examples of the batch, or nothing")
    if not -size <= min(given) <= max(given) < size:
        raise GraphError(node.describe(), f"an index is outside of {size}")
    places = [index % size for index in given]
    if indices.ndim == 0:
        one = _cut(draft, node, data, axis, (places[0], places[0] + 1))
        return draft.emit(node, "Squeeze", one, draft.ints(axis))
    if places == list(range(places[0], places[0] + len(places))):
        return _cut(draft, node, data, axis, (places[0], places[-1] + 1))
    parts = [_cut(draft, node, data, axis, (place, place + 1)) for place in places]
    return draft.emit(node, "Concat", *parts, axis=axis)


RULES: Mapping[str, Rule] = {
    "Gather": Rule(_gather, (2, 2), frozenset({"axis"})),
    "SequenceAt": Rule(_sequence_at, (2, 2)),
    "Slice": Rule(_slice, (3, 5)),
    "Split": Rule(_split, (1, 2), frozenset({"axis", "num_outputs"})),
    "SplitToSequence": Rule(_split_to_sequence, (1, 2), frozenset({"axis", "keepdims"})),
}
"""Operators that cut."""
