"""The words for products that are summed up in one pass, in the table of decisions."""

JOINED = "in one pass"
"""The alternative's label."""

PRODUCTS = "products"
"""What the site is called at which a block is offered to be computed with its products, after the block's name."""
