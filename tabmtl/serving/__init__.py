"""Models where others call them: MLflow, and ONNX files."""
