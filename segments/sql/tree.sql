-- The sums of the metrics tree by week (1 is the first; 0 is all that came before) and group of members.
-- A member's weeks are one bit each in a mask, so that no pass counts distinct members by week. A group is joined
-- only where one is asked for. The week of an instant is arithmetic: joining periods costs twice as much.
WITH bought AS MATERIALIZED (
    SELECT member_id, {n} AS n, total_minor, net_minor
    FROM (SELECT member_id, total_minor, net_minor, status, epoch_us(ordered_at) AS t FROM orders)
    WHERE status <> 'cancelled' AND t < $until
),
buyers AS MATERIALIZED (
    SELECT member_id, min(n) AS first_n, bit_or(CAST(1 AS BIGINT) << n) AS mask FROM bought GROUP BY member_id
),
came AS MATERIALIZED (
    SELECT member_id, bit_or(CAST(1 AS BIGINT) << {n}) AS mask
    FROM (SELECT member_id, epoch_us(occurred_at) AS t FROM events)
    WHERE t >= $since AND t < $until
    GROUP BY member_id
),
active AS MATERIALIZED (
    SELECT
        coalesce(b.member_id, c.member_id) AS member_id, b.first_n,
        coalesce(b.mask, 0) AS bought, coalesce(c.mask, 0) AS came
    FROM buyers AS b FULL JOIN came AS c ON c.member_id = b.member_id
),
people AS (
    SELECT
        {value} AS value, p.n,
        count(*) AS visitors,
        count(*) FILTER (WHERE (x.came >> p.n) & 1 = 1) AS events,
        count(*) FILTER (WHERE (x.bought >> p.n) & 1 = 1) AS buyers,
        count(*) FILTER (WHERE x.first_n = p.n) AS new_buyers
    FROM active AS x CROSS JOIN periods AS p {of_member}
    WHERE ((x.came | x.bought) >> p.n) & 1 = 1
    GROUP BY 1, 2
),
spent AS (
    SELECT
        {value} AS value, x.n, count(*) AS orders, CAST(sum(x.total_minor) AS BIGINT) AS gmv,
        CAST(sum(x.total_minor - x.net_minor) AS BIGINT) AS refunds
    FROM bought AS x {of_member}
    WHERE x.n > 0
    GROUP BY 1, 2
),
pieces AS (
    SELECT {value} AS value, x.n, CAST(sum(x.quantity) AS BIGINT) AS units
    FROM (
        SELECT member_id, quantity, {n} AS n
        FROM (SELECT member_id, quantity, status, epoch_us(ordered_at) AS t FROM order_lines)
        WHERE status <> 'cancelled' AND t >= $since AND t < $until
    ) AS x {of_member}
    GROUP BY 1, 2
),
joined AS (
    -- A member is there from the registration or the first order on; without a date, always was.
    SELECT {value} AS value, x.n, count(*) AS members
    FROM (
        SELECT r.member_id, least(r.n, coalesce(b.first_n, r.n)) AS n
        FROM (
            SELECT member_id, {n} AS n
            FROM (SELECT member_id, coalesce(epoch_us(registered_at), $beginning) AS t FROM members)
            WHERE t < $until
        ) AS r
        LEFT JOIN buyers AS b ON b.member_id = r.member_id
    ) AS x {of_member}
    GROUP BY 1, 2
)
SELECT
    value, n,
    coalesce(v.visitors, 0) AS visitors, coalesce(v.events, 0) AS events, coalesce(v.buyers, 0) AS buyers,
    coalesce(v.new_buyers, 0) AS new_buyers, coalesce(s.orders, 0) AS orders, coalesce(s.gmv, 0) AS gmv,
    coalesce(s.refunds, 0) AS refunds, coalesce(u.units, 0) AS units, coalesce(j.members, 0) AS joined
FROM people AS v
FULL JOIN spent AS s USING (value, n)
FULL JOIN pieces AS u USING (value, n)
FULL JOIN joined AS j USING (value, n)
ORDER BY value, n
