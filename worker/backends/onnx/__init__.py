"""ONNX files, by ONNX Runtime."""
