-- Each customer's repeat purchases, time of the last one and time observed, all since its first
-- purchase and in days, as of the day $end; and, as c_, as of the earlier day $cut, after which comes
-- the hold-out. Spend is the mean of the repeat purchases: the first says nothing about those after it.
SELECT
    customer,
    min(day) AS first_day,
    count(*) - 1 AS frequency,
    max(day) - min(day) AS recency,
    $end - min(day) AS age,
    CAST(sum(spend) - arg_min(spend, day) AS DOUBLE) / nullif(count(*) - 1, 0) AS spend,
    count(*) FILTER (day <= $cut) - 1 AS c_frequency,
    max(day) FILTER (day <= $cut) - min(day) AS c_recency,
    $cut - min(day) AS c_age,
    CAST(sum(spend) FILTER (day <= $cut) - arg_min(spend, day) AS DOUBLE)
        / nullif(count(*) FILTER (day <= $cut) - 1, 0) AS c_spend
FROM purchases
GROUP BY customer
ORDER BY customer
