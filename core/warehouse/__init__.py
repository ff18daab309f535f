"""The columnar replica of the database's facts, and the engines that query it."""
