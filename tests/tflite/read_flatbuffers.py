"""Reads every model of a folder with the generic FlatBuffers reader. Arguments: FOLDER.

Writes, for `<case>.tflite`, `<case>.schema.json`: the operators by name, the constants' positions
in the file, the signature, and the types and quantization of input and output.
"""

import json
import sys
from pathlib import Path

from ai_edge_litert import schema_py_generated as schema

OPERATORS = {
    number: name for name, number in vars(schema.BuiltinOperator).items() if name.isupper()
}


def describe(data: bytes) -> dict[str, object]:
    """Return what a test wants to know of one file."""
    model = schema.Model.GetRootAsModel(data, 0)
    graph = model.Subgraphs(0)
    codes = [model.OperatorCodes(k).BuiltinCode() for k in range(model.OperatorCodesLength())]
    positions = []
    for k in range(model.BuffersLength()):
        buffer = model.Buffers(k)
        if not buffer.DataIsNone():
            field = buffer._tab.Offset(4)  # noqa: SLF001 - where the vector's offset stands
            positions.append(buffer._tab.Vector(field))  # noqa: SLF001
    signature = model.SignatureDefs(0)
    ends = []
    for number in (graph.Inputs(0), graph.Outputs(0)):
        tensor = graph.Tensors(number)
        ends.append({"name": tensor.Name().decode(), "type": tensor.Type()})
    return {
        "version": model.Version(),
        "operators": [
            OPERATORS[codes[graph.Operators(k).OpcodeIndex()]]
            for k in range(graph.OperatorsLength())
        ],
        "positions": positions,
        "signature": [
            signature.SignatureKey().decode(),
            signature.Inputs(0).Name().decode(),
            signature.Outputs(0).Name().decode(),
        ],
        "ends": ends,
    }


for file in sorted(Path(sys.argv[1]).glob("*.tflite")):
    data = file.read_bytes()
    file.with_suffix(".schema.json").write_text(json.dumps(describe(data)))
