"""The words for attention that is fused over rows, in the table of decisions."""

FUSED = "fused over rows"
"""The alternative's label begins so."""

MASKED = "masked keys skipped"
"""It ends so where a mask leaves keys out."""
