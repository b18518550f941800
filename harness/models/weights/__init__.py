"""Weights from elsewhere: files of this harness and of others, with the names that their packages give.

files -> the named tensors of a file, whatever it is; keras -> those of Keras's files; names -> what other packages call
a network's tensors; load -> the state dict that fits, loaded whole or not at all.
"""

from harness.models.weights.load import load_weights

__all__ = ["load_weights"]
