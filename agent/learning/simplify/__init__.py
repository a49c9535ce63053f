"""Simplification: from what exporters write to the core set that can be trained.

Runs when a bundle is built, never on a gateway. `torch.onnx.export` writes sizes as arithmetic on
`Shape`, layers as several spellings, and operators that no gateway knows; all become the operators
of `ir.FORWARD_OPERATORS`, or are refused with the node's name, so that whoever builds a bundle
learns at once what cannot be trained.
"""

from agent.learning.simplify.rewrite import AUTHORING_LIMITS, read_exported, simplify

__all__ = ["AUTHORING_LIMITS", "read_exported", "simplify"]
