CASE
    WHEN f.member_id IS NULL THEN 'prospect'
    WHEN f.first_recent - f.last_before_recent > $active_us THEN 'reactivated'
    WHEN f.last_at < $as_of - $churned_us THEN 'churned'
    WHEN f.last_at < $as_of - $active_us THEN 'dormant'
    WHEN f.orders = 1 AND f.first_at >= $as_of - $new_us THEN 'new'
    WHEN f.orders >= $silence_orders AND $as_of - f.last_at > $silence_factor * g.median_gap THEN 'at_risk'
    WHEN s.monetary > $top_spend THEN 'high_value'
    ELSE 'active'
END
