-- Members whose first order came through $channel: at their first instant stands an order of it.
SELECT member_id
FROM orders
WHERE ordered_at < make_timestamptz($as_of) AND (status = 'paid' OR net_minor > 0)
GROUP BY member_id
HAVING min(ordered_at) = min(ordered_at) FILTER (WHERE channel = $channel)
