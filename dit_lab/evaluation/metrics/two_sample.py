"""Classifier two-sample test (C2ST): accuracy of a classifier that separates two image sets.

Lopez-Paz and Oquab, "Revisiting Classifier Two-Sample Tests", 2017. 0.5 is chance, 1 is perfect
separation.

Shapes: N images of each set, D features.
"""

from __future__ import annotations

import numpy as np

from dit_lab.evaluation.features.extractors import Features, finite

TREES = 200
FOLDS = 5


def two_sample_accuracy(first: Features, second: Features, *, seed: int) -> float:
    """Return the held-out accuracy of a random forest, folded to [0.5, 1].

    It is the mean over shuffled, stratified folds of `first` (N, D) against `second` (N, D), N >=
    FOLDS. If the sets share images, the accuracy a can be below 0.5, because an image's copy is in
    the other set. This separates the sets just as well, so max(a, 1 - a) is returned.
    """
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.model_selection import StratifiedKFold, cross_val_score

    assert len(first) == len(second), "a test at unequal counts has another chance level"
    features = finite(np.concatenate([first, second]))
    which = np.repeat([0, 1], [len(first), len(second)])
    forest = RandomForestClassifier(TREES, random_state=seed, n_jobs=1)
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=seed)
    accuracy = float(np.mean(cross_val_score(forest, features, which, cv=folds)))
    return max(accuracy, 1 - accuracy)
