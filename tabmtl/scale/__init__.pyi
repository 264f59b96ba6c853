from .files import drift_files as drift_files
from .files import predict_file as predict_file
from .files import predict_files as predict_files
from .files import score_files as score_files
from .shards import Shards as Shards
from .torch_group import joined as joined
