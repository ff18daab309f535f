"""Predictions: how alive a buyer is, how often and for how much it will buy, what it is worth.

``snapshot`` is what a refresh calls and needs no SciPy to be imported; ``study`` fits and checks;
``bgnbd`` and ``gammagamma`` are the models; ``clv`` predicts; ``summary`` and ``log`` bring the data.
"""
