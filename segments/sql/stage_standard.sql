CASE
    WHEN s.member_id IS NULL THEN 'prospect'
    WHEN s.first_recent - s.last_before_recent > $active_us THEN 'reactivated'
    WHEN s.last_at < $as_of - $churned_us THEN 'churned'
    WHEN s.last_at < $as_of - $active_us THEN 'dormant'
    WHEN s.orders = 1 AND s.first_at >= $as_of - $new_us THEN 'new'
    WHEN q.member_id IS NOT NULL THEN 'at_risk'
    WHEN s.monetary > $top_spend THEN 'high_value'
    ELSE 'active'
END
