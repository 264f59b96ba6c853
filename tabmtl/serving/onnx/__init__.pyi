from .coder import OnnxCoder as OnnxCoder
from .exporting import export as export
