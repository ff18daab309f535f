"""Settings, database, members, catalogue, orders, events, imports and the warehouse: what every other package stands on."""
