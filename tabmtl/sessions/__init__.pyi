from .knn import STAN as STAN
from .knn import VSKNN as VSKNN
from .m2trec import M2TRec as M2TRec
from .popularity import CategoryPopularity as CategoryPopularity
from .popularity import Popularity as Popularity
from .ranking import Ranking as Ranking
from .rules import SequentialRules as SequentialRules
from .split import temporal_split as temporal_split
