"""Questions over time: membership history, moves between dates, cohorts, funnels, paths."""
