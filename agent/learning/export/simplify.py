"""Merging in a TFLite program: fewer operators, no arena spent on moving numbers.

Responsible for rewrites that change no result beyond float32 rounding: activations and constant
sums go into the operator before them, transpositions beside a dense layer go into the order of
its weights, reshapes of reshapes become one. Invariant: the input and output tensors keep their
names.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agent.learning.export.program import (
    NO_ACTIVATION,
    RELU_ACTIVATION,
    Op,
    Program,
    Tensor,
)

WEIGHTED = {"CONV_2D": 1, "DEPTHWISE_CONV_2D": 1, "FULLY_CONNECTED": 1, "TRANSPOSE_CONV": 1}
"""Operators with a weight and, right at their end, a bias; the index of the weight."""

_TAKES_RELU = frozenset(
    {"ADD", "CONV_2D", "DEPTHWISE_CONV_2D", "DIV", "FULLY_CONNECTED", "MUL", "SUB"}
)
_EACH_ALONE = frozenset({"LEAKY_RELU", "LOGISTIC", "RELU", "TANH"})


class _Draft:
    """A program being rewritten."""

    def __init__(self, program: Program) -> None:
        self.tensors = dict(program.tensors)
        self.ops = list(program.ops)
        self.output = program.output

    def at(self, index: int, *codes: str) -> Op | None:
        """Return the operator at a place, None where it is none of `codes`."""
        op = self.ops[index] if index < len(self.ops) else None
        return op if op is not None and op.code in codes else None

    def users(self, tensor: str) -> list[int]:
        """Return the operators that read a tensor; the program's reader counts as -1."""
        found = [k for k, op in enumerate(self.ops) if tensor in op.inputs]
        return [*found, -1] if tensor == self.output else found

    def only_user(self, tensor: str) -> int | None:
        """Return the one operator that reads a tensor, None if there are others."""
        users = self.users(tensor)
        return users[0] if len(users) == 1 and users[0] >= 0 else None

    def producer(self, tensor: str) -> int | None:
        """Return the operator that computes a tensor, None for inputs and constants."""
        return next((k for k, op in enumerate(self.ops) if tensor in op.outputs), None)

    def constant(self, array: NDArray[Any]) -> str:
        """Add a constant tensor."""
        number = 0
        while f"merged{number}" in self.tensors:
            number += 1
        name = f"merged{number}"
        data = np.ascontiguousarray(array)
        self.tensors[name] = Tensor(name, data.shape, data, dtype=data.dtype.name)
        return name

    def data(self, tensor: str) -> NDArray[Any] | None:
        """Return a constant's values, None for a computed tensor."""
        return self.tensors[tensor].data

    def reshape(self, tensor: str, shape: tuple[int, ...]) -> None:
        """Correct a computed tensor's shape."""
        self.tensors[tensor] = replace(self.tensors[tensor], shape=shape)


def simplify(program: Program) -> Program:
    """Return a program that computes the same with fewer operators."""
    draft = _Draft(program)
    changed = True
    while changed:
        changed = False
        for rule in _RULES:
            for index in range(len(draft.ops) - 1, -1, -1):
                changed |= rule(draft, index)
    used = {name for op in draft.ops for name in (*op.inputs, *op.outputs)}
    used |= {program.input, program.output}
    tensors = {name: tensor for name, tensor in draft.tensors.items() if name in used}
    return replace(program, tensors=tensors, ops=tuple(draft.ops))


def _drop_unused(draft: _Draft, index: int) -> bool:
    """Remove an operator whose output nobody reads."""
    if index >= len(draft.ops) or any(draft.users(name) for name in draft.ops[index].outputs):
        return False
    del draft.ops[index]
    return True


def _merge_reshapes(draft: _Draft, index: int) -> bool:
    """Let a RESHAPE of a RESHAPE read what the first one reads."""
    op = draft.at(index, "RESHAPE")
    if op is None:
        return False
    first = draft.producer(op.inputs[0])
    if first is None or draft.ops[first].code != "RESHAPE":
        return False
    draft.ops[index] = replace(op, inputs=(draft.ops[first].inputs[0], op.inputs[1]))
    return True


def _skip_reshape(draft: _Draft, index: int) -> bool:
    """Let readers of a RESHAPE that changes nothing, and dense layers, read its input.

    A dense layer flattens its input by itself.
    """
    op = draft.at(index, "RESHAPE")
    if op is None:
        return False
    source, result = op.inputs[0], op.outputs[0]
    same = draft.tensors[source].shape == draft.tensors[result].shape
    flat = len(draft.tensors[result].shape) == 2
    changed = False
    for user in draft.users(result):
        if user < 0:
            continue
        reader = draft.ops[user]
        dense = reader.code == "FULLY_CONNECTED" and not reader.options["keep_num_dims"]
        if same or (flat and dense and reader.inputs[0] == result):
            inputs = tuple(source if name == result else name for name in reader.inputs)
            draft.ops[user] = replace(reader, inputs=inputs)
            changed = True
    return changed


def _merge_transposes(draft: _Draft, index: int) -> bool:
    """Make one TRANSPOSE of two, or a RESHAPE of one that keeps the order of the numbers."""
    op = draft.at(index, "TRANSPOSE")
    if op is None:
        return False
    order = draft.data(op.inputs[1])
    source, shape = op.inputs[0], draft.tensors[op.outputs[0]].shape
    if order is None:
        return False
    moving = [axis for axis in order if draft.tensors[source].shape[axis] > 1]
    if moving == sorted(moving):
        sizes = draft.constant(np.array((-1, *shape[1:]), np.int32))
        draft.ops[index] = replace(op, code="RESHAPE", inputs=(source, sizes))
        return True
    first = draft.producer(source)
    if first is None or draft.ops[first].code != "TRANSPOSE":
        return False
    before = draft.data(draft.ops[first].inputs[1])
    if before is None:
        return False
    both = draft.constant(before[order])
    draft.ops[index] = replace(op, inputs=(draft.ops[first].inputs[0], both))
    return True


def _add_to_bias(draft: _Draft, index: int) -> bool:
    """Let a weighted operator's bias take the constant that is added behind it."""
    op = draft.at(index, *WEIGHTED)
    if op is None or op.options["fused_activation_function"]:
        return False
    user = draft.only_user(op.outputs[0])
    if user is None or draft.ops[user].code != "ADD":
        return False
    add = draft.ops[user]
    other = next((name for name in add.inputs if name != op.outputs[0]), op.outputs[0])
    more, bias = draft.data(other), draft.data(op.inputs[-1])
    if more is None or bias is None or more.shape not in (bias.shape, (1,), ()):
        return False
    if draft.tensors[op.outputs[0]].shape != draft.tensors[add.outputs[0]].shape:
        return False
    options = dict(op.options)
    if op.code in _TAKES_RELU:
        options["fused_activation_function"] = add.options["fused_activation_function"]
    elif add.options["fused_activation_function"]:
        return False
    inputs = (*op.inputs[:-1], draft.constant(bias + more))
    draft.ops[index] = replace(op, inputs=inputs, outputs=add.outputs, options=options)
    del draft.ops[user]
    return True


def _fuse_relu(draft: _Draft, index: int) -> bool:
    """Let an operator apply the RELU behind it."""
    op = draft.at(index, *_TAKES_RELU)
    if op is None or op.options["fused_activation_function"] != NO_ACTIVATION:
        return False
    user = draft.only_user(op.outputs[0])
    if user is None or draft.ops[user].code != "RELU":
        return False
    options = {**op.options, "fused_activation_function": RELU_ACTIVATION}
    draft.ops[index] = replace(op, outputs=draft.ops[user].outputs, options=options)
    del draft.ops[user]
    return True


def _reorder_columns(draft: _Draft, index: int) -> bool:
    """Let the dense layers behind TRANSPOSE and RESHAPE take the numbers as they are."""
    op = draft.at(index, "TRANSPOSE")
    if op is None:
        return False
    reshape = draft.only_user(op.outputs[0])
    if reshape is None or draft.ops[reshape].code != "RESHAPE":
        return False
    last = draft.ops[reshape].outputs[0]
    if len(draft.tensors[last].shape) != 2:
        return False
    users = draft.users(last)
    while len(users) == 1 and users[0] >= 0 and draft.ops[users[0]].code in _EACH_ALONE:
        last = draft.ops[users[0]].outputs[0]
        users = draft.users(last)
    if not all(user >= 0 and _is_dense(draft, draft.ops[user], last) for user in users):
        return False
    order = draft.data(op.inputs[1])
    if order is None:
        return False
    places = np.arange(math.prod(draft.tensors[last].shape))
    places = places.reshape(draft.tensors[op.outputs[0]].shape)
    places = places.transpose(np.argsort(order)).ravel()
    for user in users:
        dense = draft.ops[user]
        weight = draft.data(dense.inputs[1])
        if weight is not None:
            moved = draft.constant(weight[:, places])
            draft.ops[user] = replace(dense, inputs=(last, moved, dense.inputs[2]))
    old = draft.ops[reshape]
    draft.ops[reshape] = replace(old, inputs=(op.inputs[0], old.inputs[1]))
    return True


def _reorder_rows(draft: _Draft, index: int) -> bool:
    """Let the dense layer before RESHAPE and TRANSPOSE give the numbers in the order wanted."""
    op = draft.at(index, "TRANSPOSE")
    if op is None:
        return False
    order = draft.data(op.inputs[1])
    before = _dense_before(draft, op.inputs[0])
    if order is None or before is None:
        return False
    dense = draft.ops[before]
    weight, bias = draft.data(dense.inputs[1]), draft.data(dense.inputs[2])
    if weight is None or bias is None:
        return False
    places = np.arange(len(weight)).reshape(draft.tensors[op.inputs[0]].shape)
    places = places.transpose(order).ravel()
    rows, sums = draft.constant(weight[places]), draft.constant(bias[places])
    draft.ops[before] = replace(dense, inputs=(dense.inputs[0], rows, sums))
    sizes = draft.constant(np.array((-1, *draft.tensors[op.outputs[0]].shape[1:]), np.int32))
    draft.ops[index] = replace(op, code="RESHAPE", inputs=(op.inputs[0], sizes))
    return True


def _dense_before(draft: _Draft, name: str) -> int | None:
    """Return the dense layer that a tensor's numbers come from, in the order it gives them.

    Between them may only be reshapes and operators on each number alone, read by nobody else.
    """
    while True:
        before = draft.producer(name)
        if before is None or draft.only_user(name) is None:
            return None
        op = draft.ops[before]
        if _is_dense(draft, op, op.inputs[0]):
            return before
        if op.code not in {"RESHAPE", *_EACH_ALONE}:
            return None
        name = op.inputs[0]


def _is_dense(draft: _Draft, op: Op, source: str) -> bool:
    """Tell whether an operator is a dense layer of a flat tensor with a constant weight."""
    return (
        op.code == "FULLY_CONNECTED"
        and op.inputs[0] == source
        and not op.options["keep_num_dims"]
        and draft.data(op.inputs[1]) is not None
    )


_RULES: tuple[Callable[[_Draft, int], bool], ...] = (
    _drop_unused,
    _add_to_bias,
    _fuse_relu,
    _merge_reshapes,
    _merge_transposes,
    _reorder_columns,
    _reorder_rows,
    _skip_reshape,
)
