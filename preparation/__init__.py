"""Pictures of any size and mode to the form that a network takes, by the same code in training and in service.

`stroke` is the procedure that produced MNIST, for drawings and writing. `fit` shows the whole picture.
"""

from preparation.form import BlankError, Form, PlainForm, check, prepare, shape
from preparation.pixels import UPRIGHT

__all__ = ["UPRIGHT", "BlankError", "Form", "PlainForm", "check", "prepare", "shape"]
