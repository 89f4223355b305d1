"""Do the intervals hold what they say, and how often is a verdict wrong? Simulated, with what the verdicts use.

An experiment is simulated as a family of comparisons, each a difference within every seed; their variances are
moderated by each other as those of a measure are. What is counted is counted over many families.
"""

from collections.abc import Callable, Mapping

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from scipy import special

from ..book.markdown import table
from ..stats import (
    ALPHA,
    CONFIDENCE,
    LOOKS,
    SMALLEST,
    SMALLEST_LOG2,
    SMALLEST_SHARE,
    fit_prior,
    moderate,
    nominal,
)
from .predicates import REFUTED

Array = NDArray[np.float64]
Draw = Callable[[Generator, tuple[int, ...]], Array]

#: differences with a mean of zero
DIFFERENCES: Mapping[str, Draw] = {
    "normal": lambda random, shape: random.standard_normal(shape),
    "t, 3 degrees of freedom": lambda random, shape: random.standard_t(3, shape),
    "of two log-normal values": lambda random, shape: np.subtract(*random.lognormal(size=(2, *shape))),
    "log-normal, as of a plain mean": lambda random, shape: random.lognormal(0, 0.5, shape) - np.exp(0.125),
}
FAMILIES = 2500  # simulated for each number
COMPARISONS = 8  # in a family


def families(draw: Draw, *, unlike: float = 0.0, comparisons: int = COMPARISONS, number: int = FAMILIES) -> Array:
    """Differences of shape (families, comparisons, seeds), the same each time.

    Args:
        unlike: how unlike the deviations of a family are: the standard deviation of their logarithms.
    """
    random = np.random.default_rng(1)
    scale = random.lognormal(0, unlike, (number, comparisons, 1))
    return scale * draw(random, (number, comparisons, LOOKS[-1]))


def moderated(differences: Array) -> tuple[Array, Array, Array]:
    """Mean, standard error and degrees of freedom of each comparison, moderated by its family."""
    n = differences.shape[-1]
    variances = differences.var(axis=-1, ddof=1)
    prior = fit_prior(variances, n - 1)
    variance, df = moderate(variances, n - 1, type(prior)(*(np.expand_dims(field, -1) for field in prior)))
    return differences.mean(axis=-1), np.sqrt(variance / n), df


def coverage(differences: Array) -> float:
    """The share of intervals that hold the true mean, which is zero."""
    mean, se, df = moderated(differences)
    return float((np.abs(mean) <= special.stdtrit(df, (1 + CONFIDENCE) / 2) * se).mean())


def p_values(differences: Array) -> Array:
    """Two-sided p values of a mean of zero."""
    mean, se, df = moderated(differences)
    return np.asarray(2 * special.stdtr(df, -np.abs(mean) / se))


def decided(differences: Array) -> Array:
    """Whether a comparison is decided, which would be wrong, at any of the looks."""
    return np.any([p_values(differences[..., :n]) <= nominal() for n in LOOKS], axis=0)


def refuted(differences: Array, parts: int) -> Array:
    """Whether a statement of so many orders, of equals each, would be refuted at any of the looks: whether, by Holm,
    the smallest p value of a difference against its order is small enough."""
    at_looks = []
    for n in LOOKS:
        seen = differences[:, :parts, :n]
        against = np.where(seen.mean(axis=-1) < 0, p_values(differences[..., :n])[:, :parts], 1.0)
        at_looks.append(against.min(axis=1) * parts <= nominal())
    return np.any(at_looks, axis=0)


def simulated() -> dict[str, Array]:
    """Families of every kind of difference."""
    normal = DIFFERENCES["normal"]
    return {
        **{name: families(draw) for name, draw in DIFFERENCES.items()},
        "normal, deviations unlike by a third": families(normal, unlike=0.3),
        "normal, deviations unlike by a factor of 2": families(normal, unlike=0.7),
    }


def report() -> str:
    """The tables of the page on method."""
    drawn, count = simulated(), FAMILIES * COMPARISONS
    covered = [[name, *(_percent(coverage(d[..., :n])) for n in LOOKS)] for name, d in drawn.items()]
    wrong = [
        [name, _percent(decided(d).mean()), *(_percent(refuted(d, k).mean()) for k in (2, 4, 6))]
        for name, d in drawn.items()
    ]
    smallest = [[f"`{name}`", f"{size:g}"] for name, size in SMALLEST.items() if size]
    smallest += [
        ["a logarithm to base 2", f"{SMALLEST_LOG2:g}"],
        ["any other", _percent(SMALLEST_SHARE) + " of its size"],
    ]
    return "\n\n".join([
        f"How often a 95 % interval holds the true difference, {count:,} intervals each, {COMPARISONS} to a family:",
        table(["differences", *(f"{n} seeds" for n in LOOKS)], covered, "lrrrr"),
        f"How often two equals are found to differ at one of the looks (by a p value of {nominal():.4f} or less), and "
        f"how often a statement of several orders of equals is {REFUTED}; {_percent(ALPHA)} is what is allowed:",
        table(["differences", "one comparison", *(f"{k} orders" for k in (2, 4, 6))], wrong, "lrrrr"),
        "The smallest effects of interest:",
        table(["measure", "smallest effect"], smallest, "lr"),
    ])  # fmt: skip


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"
