"""What every other package stands on: settings, database, facts, imports, warehouse."""
