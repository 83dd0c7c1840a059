"""How good is a predictor: data sets, metrics, the authors' protocol, and one table."""
