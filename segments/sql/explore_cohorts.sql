-- Members by the period of their first order ever (n of periods; 0 is all that came before the first shown),
-- and what each cohort did in every period from then on.
-- A member's periods are one bit each in a mask, so that no pass counts distinct members by period:
-- 10 million orders of 1 million members take 1.3 s, with a group a member and period 4.5 s.
WITH bought AS MATERIALIZED (
    SELECT o.member_id, o.net_minor, p.n
    FROM (SELECT member_id, net_minor, status, epoch_us(ordered_at) AS t FROM orders) AS o
    JOIN periods AS p ON o.t >= p.starts AND o.t < p.ends
    WHERE o.t < $as_of AND (o.status = 'paid' OR o.net_minor > 0)
),
firsts AS MATERIALIZED (
    SELECT b.member_id, min(b.n) AS cohort, bit_or(CAST(1 AS BIGINT) << b.n) AS mask
    FROM bought AS b
    {only}
    GROUP BY b.member_id
),
active AS (
    SELECT f.cohort, p.n, count(*) AS members
    FROM firsts AS f
    CROSS JOIN periods AS p
    WHERE f.cohort > 0 AND (f.mask >> p.n) & 1 = 1
    GROUP BY f.cohort, p.n
),
spent AS (
    SELECT f.cohort, b.n, count(*) AS orders, CAST(sum(b.net_minor) AS BIGINT) AS revenue
    FROM bought AS b
    JOIN firsts AS f ON f.member_id = b.member_id
    WHERE f.cohort > 0
    GROUP BY f.cohort, b.n
)
SELECT a.cohort, a.n, a.members, s.orders, s.revenue
FROM active AS a
JOIN spent AS s ON s.cohort = a.cohort AND s.n = a.n
ORDER BY a.cohort, a.n
