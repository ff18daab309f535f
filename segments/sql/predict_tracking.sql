-- By day, how many customers bought first, and how many again: of those who came up to the day $cut,
-- and only of every $every-th of them, which is plenty for a curve.
WITH purchases AS (
    SELECT customer, day FROM ({purchases}) WHERE hash(customer) % $every = 0
),
cohort AS (
    SELECT customer, min(day) AS first_day FROM purchases GROUP BY customer HAVING min(day) <= $cut
)
SELECT
    p.day,
    count(*) FILTER (p.day = c.first_day) AS newcomers,
    count(*) FILTER (p.day > c.first_day) AS repeats
FROM purchases AS p
JOIN cohort AS c ON c.customer = p.customer
GROUP BY p.day
ORDER BY p.day
