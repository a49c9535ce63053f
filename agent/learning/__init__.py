"""The learning core: reads a forward graph, derives how to train it, and trains it.

Pure but for these: `onnxruntime_backend` runs graphs, `trainer` is the training child process under
its `limits`, `worker` is the agent's handle on that child, `checkpoint` can keep its bytes in
files, `noise` takes the operating system's random bytes, `litert` and `export.micro` run exported
models.
"""
