"""How right a classifier's answers are: accuracy, and F1 and the area under the ROC curve of two classes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Classified:
    """Classified to N texts.

    Parameters
    ----------
    probabilities : ndarray [N, classes]
    labels : ndarray of int64 [N]
    """

    probabilities: NDArray[np.float64]
    labels: NDArray[np.int64]

    def metrics(self) -> dict[str, float]:
        """``accuracy``; of two classes ``f1`` of the second and ``auc``, of more ``macro_f1``, the mean over classes.

        An F1 whose class is neither there nor answered, and an area where one class alone is there, are NaN.
        """
        answered = self.probabilities.argmax(1)
        accuracy = {"accuracy": float((answered == self.labels).mean())}
        classes = self.probabilities.shape[1]
        of_class = [_f1(answered == one, self.labels == one) for one in range(classes)]
        if classes == 2:
            return accuracy | {"f1": of_class[1], "auc": area(self.probabilities[:, 1], self.labels == 1)}
        known = [value for value in of_class if np.isfinite(value)]
        return accuracy | {"macro_f1": float(np.mean(known)) if known else float("nan")}


def _f1(answered: NDArray[np.bool_], true: NDArray[np.bool_]) -> float:
    both = int(answered.sum() + true.sum())
    return 2 * int((answered & true).sum()) / both if both else float("nan")


def area(scores: NDArray[np.float64], positive: NDArray[np.bool_]) -> float:
    """Share of pairs of a positive and a negative that the scores put in order, ties half: the area under the curve."""
    from scipy.stats import rankdata

    many, few = int(positive.sum()), int((~positive).sum())
    if not many or not few:
        return float("nan")
    return float((rankdata(scores)[positive].sum() - many * (many + 1) / 2) / (many * few))
