"""
The numbers behind a verdict: tails, guessing bounds, intervals and comparisons.

Pure: integers and floats in, floats out, probabilities as log10. Knows nothing of models, receipts or files.
"""

from vtuned.stats.coverage import coverage_lower_bound, log10_coverage_tail
from vtuned.stats.exposure import exposure_bits, exposure_level, log10_rank_p_value
from vtuned.stats.gain import gain_upper_bound, log10_signed_rank_p_value, signed_rank_interval
from vtuned.stats.guessing import log10_guess_bound, log10_paper_p_value, required_activations
from vtuned.stats.intervals import clopper_pearson, clopper_pearson_upper, hypergeometric_interval
from vtuned.stats.power import probability_at_most, smallest_passing_share, subset_pass_probability
from vtuned.stats.preference import (
    log10_hits_p_value,
    log10_preference_e_value,
    log10_rank_sum_p_value,
    preference_coverage,
    preference_coverage_skipping,
)
from vtuned.stats.sequential import log10_e_p_value, log10_e_value
from vtuned.stats.tails import log10_binomial_tail, log10_hypergeometric_tail, log10_poisson_binomial_tail

__all__ = [
    "clopper_pearson",
    "clopper_pearson_upper",
    "coverage_lower_bound",
    "exposure_bits",
    "exposure_level",
    "gain_upper_bound",
    "hypergeometric_interval",
    "log10_binomial_tail",
    "log10_coverage_tail",
    "log10_e_p_value",
    "log10_e_value",
    "log10_guess_bound",
    "log10_hits_p_value",
    "log10_hypergeometric_tail",
    "log10_paper_p_value",
    "log10_poisson_binomial_tail",
    "log10_preference_e_value",
    "log10_rank_p_value",
    "log10_rank_sum_p_value",
    "log10_signed_rank_p_value",
    "preference_coverage",
    "preference_coverage_skipping",
    "probability_at_most",
    "required_activations",
    "signed_rank_interval",
    "smallest_passing_share",
    "subset_pass_probability",
]
