"""Export of trained models: to ONNX, and without TensorFlow to TFLite in float32 and in int8.

The way of a model to a `.tflite` file: `observe` asks ONNX Runtime for every value of the
forward graph, `lowering` writes it as TFLite operators with the channels last, `simplify` merges
what TFLite does in one operator, `quantize` makes integers of it with the ranges of
`calibration`, `tflite_writer` writes the bytes. `micro` runs the file as a microcontroller does.
"""
