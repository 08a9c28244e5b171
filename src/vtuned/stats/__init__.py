"""
The numbers behind a verdict: tails, guessing bounds, intervals and comparisons.

Pure: integers and floats in, floats out, probabilities as log10. Knows nothing of models, receipts or files.
"""

from vtuned.stats.guessing import log10_guess_bound, log10_paper_p_value, required_activations
from vtuned.stats.intervals import clopper_pearson, clopper_pearson_upper
from vtuned.stats.tails import log10_binomial_tail, log10_hypergeometric_tail, log10_poisson_binomial_tail

__all__ = [
    "clopper_pearson",
    "clopper_pearson_upper",
    "log10_binomial_tail",
    "log10_guess_bound",
    "log10_hypergeometric_tail",
    "log10_paper_p_value",
    "log10_poisson_binomial_tail",
    "required_activations",
]
