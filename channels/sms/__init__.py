"""SMS by their own rules: segments and prices, hours of the law, texts of other providers, lost answers."""
