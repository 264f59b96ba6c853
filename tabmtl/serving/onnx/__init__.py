"""Networks as ONNX files, and the coder of their inputs. Everything loads on first use.

``tabmtl.serving.onnx.export(model, "model.onnx")`` writes a file, and an `OnnxCoder` reads rows for it without torch.
"""

from tabmtl.base.lazy import attach

__getattr__, __dir__, __all__ = attach(__name__, __file__)
