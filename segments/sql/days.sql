-- Days in the window on which a member ordered, in the shop's zone: made only where several orders of
-- a day count once. A distinct count beside the other aggregates would double the cost of them all.
SELECT member_id, count(DISTINCT CAST(timezone($zone, make_timestamptz(t)) AS DATE)) AS days
FROM (SELECT member_id, net_minor, status, epoch_us(ordered_at) AS t FROM orders)
WHERE t >= $window_start AND t < $as_of AND (status = 'paid' OR net_minor > 0)
GROUP BY member_id
