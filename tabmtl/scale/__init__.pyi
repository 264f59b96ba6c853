from .files import predict_files as predict_files
from .torch_group import joined as joined
