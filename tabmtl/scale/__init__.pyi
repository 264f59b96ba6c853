from .files import predict_files as predict_files
