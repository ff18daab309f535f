"""Who is who: RFM, lifecycle stages, rules, memberships over time."""
