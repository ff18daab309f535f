-- The channel of each member's first order before $until; of several at the same instant the first by name.
SELECT o.member_id, min(o.channel) AS channel
FROM (SELECT member_id, channel, status, epoch_us(ordered_at) AS t FROM orders) AS o
JOIN (
    SELECT member_id, min(t) AS first_at
    FROM (SELECT member_id, status, epoch_us(ordered_at) AS t FROM orders)
    WHERE t < $until AND status <> 'cancelled'
    GROUP BY member_id
) AS f ON f.member_id = o.member_id AND f.first_at = o.t
WHERE o.status <> 'cancelled'
GROUP BY o.member_id
