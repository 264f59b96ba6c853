"""Networks as ONNX files, and the coder of their inputs."""
