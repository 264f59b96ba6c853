from .callback import MLflowCallback as MLflowCallback
from .flavor import as_pyfunc as as_pyfunc
from .flavor import load_model as load_model
from .flavor import log_model as log_model
from .flavor import save_model as save_model
from .signature import pandas_view as pandas_view
