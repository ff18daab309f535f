-- The median gap between a member's orders, for those who bought often enough and lately enough
-- for silence to mean something, and who are not reactivated, which is asked first; the others' gaps
-- would be sorted for nothing.
SELECT member_id, median(gap) AS median_gap
FROM (
    SELECT o.member_id, o.t - lag(o.t) OVER (PARTITION BY o.member_id ORDER BY o.t) AS gap
    FROM (SELECT member_id, net_minor, status, epoch_us(ordered_at) AS t FROM orders) AS o
    SEMI JOIN facts AS f
        ON f.member_id = o.member_id AND f.orders >= $silence_orders AND f.last_at >= $dormant_start
        AND (f.first_recent - f.last_before_recent > $active_us) IS NOT TRUE
    WHERE o.t < $as_of AND (o.status = 'paid' OR o.net_minor > 0)
)
GROUP BY member_id
