"""How a checked rule becomes a query: conditions, and the aggregates that they share."""
