-- The channel of each member's first order; of several at the same instant the first by name. Only of those in
-- the funnel: an aggregate with the order's id as tie-break took four times as long.
SELECT o.member_id, min(o.channel) AS channel
FROM orders AS o
JOIN (
    SELECT member_id, min(ordered_at) AS first_at
    FROM orders
    WHERE ordered_at < make_timestamptz($as_of) AND (status = 'paid' OR net_minor > 0)
        AND member_id IN (SELECT member_id FROM members_reached)
    GROUP BY member_id
) AS f ON f.member_id = o.member_id AND f.first_at = o.ordered_at
WHERE o.status = 'paid' OR o.net_minor > 0
GROUP BY o.member_id
