CASE
    WHEN greatest(s.last_at, p.registered_at) >= $as_of - 7 * $day_us THEN 'days_0_7'
    WHEN greatest(s.last_at, p.registered_at) >= $as_of - 30 * $day_us THEN 'days_7_30'
    WHEN greatest(s.last_at, p.registered_at) >= $as_of - 90 * $day_us THEN 'days_30_90'
    WHEN greatest(s.last_at, p.registered_at) >= $as_of - 365 * $day_us THEN 'days_90_365'
    ELSE 'days_over_365'
END
