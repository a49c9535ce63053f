"""Export to ONNX: the forward graph with trained parameters in it.

Refuses parameters that are not the graph's. Invariant: the same model gives the same bytes.
"""

from __future__ import annotations

from dataclasses import replace

from agent.learning.ir import Graph, Params, initial_params
from agent.learning.onnx_writer import write_graph
from agent.learning.params import check_same_layout


def export_onnx(forward: Graph, params: Params) -> bytes:
    """Return an ONNX file (operator set 18) of a model with its trained parameters.

    Args:
      forward: the model.
      params: its parameters, in its order.

    Raises:
      ValueError: `params` are not the model's.
    """
    return write_graph(with_params(forward, params))


def with_params(forward: Graph, params: Params) -> Graph:
    """Return a forward graph that has `params` as its initializers.

    Raises:
      ValueError: `params` are not the model's.
    """
    check_same_layout(initial_params(forward), params)
    return replace(forward, initializers={**forward.initializers, **params})
