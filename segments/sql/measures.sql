-- Recency in calendar days of the shop's zone, frequency and monetary, of members with an order
-- in the window.
SELECT
    f.member_id,
    date_diff('day', CAST(timezone($zone, make_timestamptz(f.last_at)) AS DATE), $as_of_day) AS recency,
    coalesce(d.days, f.orders_in_window) AS frequency,
    f.monetary
FROM facts AS f
LEFT JOIN days AS d ON d.member_id = f.member_id
WHERE f.orders_in_window > 0
