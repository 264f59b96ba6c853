"""Merge networks that were fine-tuned from one base, each on tasks of its own, into one network without training.

Fine-tuning network k moves the weights by τ_k = θ_k - θ_0, its task vector. The merged network has the weights θ_0 plus
a weighted sum of the K task vectors. Weights that only one task reads, such as its head, are no part of it: they come
from the model that trained the task.
"""

from tabmtl.merging.front import merge_front
from tabmtl.merging.merge import merge

__all__ = ["merge", "merge_front"]
