"""Slice: cutting values out along the axes of one example, with any step.

Source of the adjoint: what was cut out goes back to its place, and everything else gets 0. An axis
cut with step s is seen as rows of s places, of which one is filled; so one Pad puts every axis in
place, without any scattering. Slices that lie side by side, such as the gates of a recurrent cell,
go back together as one Concat.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from agent.learning.ir import Array, GraphError, Node
from agent.learning.operators.rule import Operator
from agent.learning.shapes import Shape, constant_ints, has_input, place_axis
from agent.learning.tape import Tape

_EVERYTHING = (1 << 31) - 1
"""An end beyond any batch: exporters write the largest int32 or int64."""

_BEFORE_ALL = -(1 << 63)
"""An end before the first element, for slices that run backwards."""


@dataclass(frozen=True)
class _Cut:
    """The elements low, low + step, ... of an axis, `count` of them; backwards if `reverse`."""

    low: int
    step: int
    count: int
    reverse: bool


def _cuts(node: Node, shape: Shape, constants: Mapping[str, Array]) -> dict[int, _Cut]:
    """Return what is cut out of each axis that is cut, by axis."""
    starts, ends = constant_ints(node, 1, constants), constant_ints(node, 2, constants)
    axes = tuple(range(len(starts)))
    if has_input(node, 3):
        axes = constant_ints(node, 3, constants)
    steps = constant_ints(node, 4, constants) if has_input(node, 4) else (1,) * len(starts)
    if not len(starts) == len(ends) == len(axes) == len(steps) or 0 in steps:
        raise GraphError(node.describe(), "starts, ends, axes and steps do not fit together")
    cuts: dict[int, _Cut] = {}
    for given, start, end, step in zip(axes, starts, ends, steps, strict=True):
        axis = place_axis(node, given, len(shape))
        size = shape[axis]
        if axis in cuts:
            raise GraphError(node.describe(), f"cuts axis {axis} twice")
        if isinstance(size, int):
            # ONNX clamps as Python does, but moves a start before the first element to it when
            # it goes backwards (operator Slice, opset 13).
            first = start if step > 0 else max(start, -size)
            places = range(size)[first:end:step]
            low = min(places, default=0)
            cuts[axis] = _Cut(low, abs(step) if len(places) > 1 else 1, len(places), step < 0)
        elif start != 0 or end < _EVERYTHING or step != 1:
            raise GraphError(node.describe(), "cuts the batch axis, which would drop examples")
    return cuts


def _infer(node: Node, shapes: Sequence[Shape], constants: Mapping[str, Array]) -> Shape:
    cuts = _cuts(node, shapes[0], constants)
    return tuple(cuts[axis].count if axis in cuts else size for axis, size in enumerate(shapes[0]))


def _adjoint(tape: Tape, node: Node, gradient: str) -> Iterator[tuple[str, str]]:
    name = node.inputs[0]
    shape = tape.shapes[name]
    cuts = _cuts(node, shape, tape.constants)
    turned = [axis - len(shape) for axis, cut in cuts.items() if cut.reverse and cut.count > 1]
    if turned:
        gradient = _backwards(tape, gradient, turned)
    partial = {axis: cut for axis, cut in cuts.items() if cut.count != shape[axis]}
    if len(partial) == 1:
        ((axis, cut),) = partial.items()
        if cut.step == 1:
            gradient, cut = _with_neighbour(tape, name, axis, gradient, cut)
            partial = {} if cut.count == shape[axis] else {axis: cut}
    if partial:
        gradient = _put_back(tape, gradient, shape, partial)
    yield name, gradient


def _with_neighbour(tape: Tape, name: str, axis: int, gradient: str, cut: _Cut) -> tuple[str, _Cut]:
    """Join `gradient` to what the slices beside this one gave, which is taken off the tape.

    Four nodes less for the three gates of a GRU: one Concat instead of three Pads and two Adds.
    """
    shape = tape.shapes[name]
    pad = _producer(tape, tape.gradients.get(name, ""))
    if pad is None or pad.op != "Pad" or len(pad.inputs) != 2 or pad.attributes:
        return gradient, cut
    pads = tape.initializers[pad.inputs[1]].tolist()  # as `_put_back` writes them
    place = axis - len(shape)
    before, after = pads[len(pads) // 2 + place], pads[place]
    low, high = before, int(shape[axis]) - after
    if sum(map(abs, pads)) != before + after or cut.low not in (high, low - cut.count):
        return gradient, cut
    del tape.gradients[name]
    known = _producer(tape, pad.inputs[0])
    parts: tuple[str, ...] = (pad.inputs[0],)
    if known is not None and known.op == "Concat" and known.attributes["axis"] == place:
        parts = known.inputs
    parts = (*parts, gradient) if cut.low == high else (gradient, *parts)
    joined = _Cut(min(low, cut.low), 1, high - low + cut.count, reverse=False)
    return tape.emit("Concat", *parts, axis=place), joined


def _producer(tape: Tape, name: str) -> Node | None:
    return next((node for node in reversed(tape.nodes) if node.outputs[0] == name), None)


def _backwards(tape: Tape, gradient: str, axes: Sequence[int]) -> str:
    count = len(axes)
    settings = ((-1,) * count, (_BEFORE_ALL,) * count, tuple(axes), (-1,) * count)
    return tape.emit("Slice", gradient, *(tape.ints(*values) for values in settings))


def _put_back(tape: Tape, gradient: str, shape: Shape, cuts: Mapping[int, _Cut]) -> str:
    """Pad the elements cut out, in ascending order, to a value of `shape`."""
    rows: list[int | str] = []  # the gradient's axes, those with a step as (rows, 1)
    padded: list[int | str] = []  # the same axes afterwards, merged again
    before: list[int] = []
    after: list[int] = []
    for axis, size in enumerate(shape):
        cut = cuts.get(axis)
        if cut is None or isinstance(size, str):
            rows.append(size)
            padded.append(size)
            before.append(0)
            after.append(0)
        elif cut.step == 1:
            rows.append(cut.count)
            padded.append(size)
            before.append(cut.low)
            after.append(size - cut.low - cut.count)
        else:
            whole = -(-size // cut.step)
            row, place = divmod(cut.low, cut.step)
            rows += [cut.count, 1]
            padded.append(whole * cut.step)
            before += [row, place]
            after += [whole - row - cut.count, cut.step - 1 - place]
    if len(rows) > len(shape):
        gradient = tape.reshape_gradient(gradient, tuple(rows))
    extra = (0,) * (len(tape.gradient_shape(shape)) - len(shape))
    gradient = tape.emit("Pad", gradient, tape.ints(*extra, *before, *extra, *after))
    if len(rows) > len(shape):
        gradient = tape.reshape_gradient(gradient, tuple(padded))
    return _trim(tape, gradient, tuple(padded), shape)


def _trim(tape: Tape, gradient: str, padded: Shape, shape: Shape) -> str:
    """Drop the places of the last rows that are beyond the axis."""
    axes = [axis for axis, size in enumerate(padded) if size != shape[axis]]
    if not axes:
        return gradient
    ends = tape.ints(*(int(shape[axis]) for axis in axes))
    from_end = tape.ints(*(axis - len(shape) for axis in axes))
    return tape.emit("Slice", gradient, tape.ints(*(0,) * len(axes)), ends, from_end)


OPERATORS: Mapping[str, Operator] = {
    "Slice": Operator(
        _infer, _adjoint, (3, 5), settings=frozenset({1, 2, 3, 4}), optional=frozenset({3, 4})
    ),
}
